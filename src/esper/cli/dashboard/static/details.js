// What diagnostics measured: a chart per field, and which class was taken for which.
import { Chart, SLOT_COLOURS } from "./charts.js";
import { card, el, emptyNote, fill, table } from "./dom.js";
import { formatMetric, formatNumber, isFraction, NOT_RECORDED } from "./format.js";

export class Details {
  constructor() {
    this.charts = new Map();
    this.grid = el("div", { class: "grid broad" });
    this.confusion = el("div", {});
    this.none = el("div", {});
    this.node = el("div", { class: "stack", test: "detail-panel" }, this.none, this.grid, this.confusion);
  }

  update(data, max) {
    fill(this.none, data.measured.length ? null : card("Gradients, weights and classes in detail", {}, emptyNote(NOT_RECORDED)));
    for (const title of [...this.charts.keys()]) if (!data.measured.some((group) => group.title === title)) this.remove(title);
    for (const group of data.measured) {
      if (!this.charts.has(group.title)) this.charts.set(group.title, new Chart(group.title, "detail-chart", { "data-group": group.title }));
      this.charts.get(group.title).update({ x: group.x, max, shared: true, height: 160, format: formatOf(group.title), more: group.num_left_out, series: Object.entries(group.series).map(([label, values], index) =>
        ({ label, values, colour: SLOT_COLOURS[index % SLOT_COLOURS.length], dash: DASHES[Math.floor(index / SLOT_COLOURS.length)], spanGaps: true })) });
    }
    const wanted = data.measured.map((group) => this.charts.get(group.title).node);
    if (wanted.some((node, index) => this.grid.children[index] !== node)) this.grid.replaceChildren(...wanted);
    fill(this.confusion, data.confusion ? confusionCard(data.confusion) : null);
  }

  remove(title) {
    this.charts.get(title).close();
    this.charts.get(title).node.remove();
    this.charts.delete(title);
  }

  repaint() {
    for (const chart of this.charts.values()) chart.repaint();
  }

  close() {
    for (const chart of this.charts.values()) chart.close();
  }
}

const DASHES = [undefined, [7, 4], [2, 3]];

function formatOf(title) {
  return isFraction(title) ? (value, isAxis) => (isAxis ? `${Number((100 * value).toFixed(2))} %` : formatMetric(title, value)) : undefined;
}

// Every row sums to the items of one true class; the shade of a cell is its share of them.
function confusionCard(confusion) {
  return card(`Which class was taken for which, epoch ${confusion.epoch}`, { test: "confusion" },
    confusion.counts ? confusionTable(confusion.counts) : el("p", { class: "muted" }, `${confusion.num_classes} classes are more than a table shows; the worst of them:`),
    el("p", { class: "muted" }, confusion.mistakes.length ? `most frequent mistakes: ${confusion.mistakes.map((each) => `${each.true} taken for ${each.guess} (${formatNumber(each.count)})`).join(", ")}` : "no mistakes"));
}

function confusionTable(counts) {
  const columns = [{ title: "true \\ guess" }, ...counts.map((_, guess) => ({ title: String(guess), number: true })), { title: "right", number: true }];
  const rows = counts.map((row, truth) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return el("tr", {}, el("th", { scope: "row" }, String(truth)),
      row.map((count, guess) => confusionCell(count, total, guess === truth)),
      el("td", { class: "number" }, total ? formatMetric("accuracy", row[truth] / total) : "\u2013"));
  });
  const node = table(columns, rows, { test: "confusion-table", label: "row: true class, column: guess" });
  node.classList.add("confusion");
  return node;
}

function confusionCell(count, total, isRight) {
  const cell = el("td", { class: `number ${count === 0 ? "zero" : isRight ? "right" : "wrong"}` }, formatNumber(count));
  if (count) cell.style.setProperty("--share", `${(8 + (44 * count) / total).toFixed(1)}%`);
  return cell;
}
