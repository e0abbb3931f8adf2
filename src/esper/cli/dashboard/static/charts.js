// Line charts by uPlot: one x axis for all charts of a page, a legend of our own, colours of the theme.
import { el, fill } from "./dom.js";
import { formatNumber, formatTick } from "./format.js";

export const SLOT_COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8"];

export function colourOf(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

// Left of the plot there is room for numbers, and for names of slots in the strips below it.
export function gutter() {
  return globalThis.innerWidth < 560 ? 52 : 76;
}

export const RIGHT_PAD = 14;

const GROUP = "x";

export class Chart {
  // spec: { x, max, series: [{ label, values, colour, dash, width, upper, lower, points }], format, height, empty, shared, more }
  constructor(title, test, extra) {
    this.legend = el("div", { class: "legend" });
    this.plot = el("div", { class: "plot" });
    this.node = el("section", { class: "card chart", test, "aria-label": title, ...extra },
      el("div", { class: "chart-head" }, el("h2", {}, title), this.legend), this.plot);
    this.u = null;
    this.shape = "";
    this.spec = null;
    this.values = [];
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.plot);
  }

  update(spec) {
    this.spec = spec;
    const isEmpty = !spec.x.length || !spec.series.length;
    if (isEmpty) {
      this.drop();
      fill(this.legend);
      fill(this.plot, el("p", { class: "empty" }, spec.empty || "nothing recorded yet"));
      return;
    }
    const shape = JSON.stringify([
      spec.series.map((each) => [each.label, each.colour, Boolean(each.upper)]), spec.height, spec.shared, spec.more, gutter(),
    ]);
    if (this.u === null || this.shape !== shape) this.build(shape);
    else this.u.setData(dataOf(spec));
    this.showValues(null);
  }

  repaint() {
    this.shape = "";
    if (this.spec !== null) this.update(this.spec);
  }

  resize() {
    if (this.u !== null && this.plot.clientWidth > 0) {
      this.u.setSize({ width: this.plot.clientWidth, height: this.spec.height || 220 });
    }
  }

  build(shape) {
    this.drop();
    this.shape = shape;
    fill(this.plot);
    const spec = this.spec;
    const { series, bands } = seriesOf(spec);
    const options = {
      width: Math.max(this.plot.clientWidth, 120),
      height: spec.height || 220,
      padding: [10, RIGHT_PAD, 0, 0],
      legend: { show: false },
      cursor: { sync: spec.shared ? { key: GROUP } : undefined, points: { size: 6 }, drag: { x: true, y: false } },
      scales: {
        x: { time: false, range: (u, low, high) => (u.zoomed ? [low, high] : [0, Math.max(this.spec.max || 0, high, 1)]) },
        y: { range: (u, low, high) => roomFor(low, high) },
      },
      axes: axesOf(spec),
      series,
      bands,
      hooks: {
        setSelect: [(u) => { u.zoomed = u.select.width > 2; }],
        setCursor: [(u) => this.showValues(u.cursor.idx)],
      },
    };
    this.u = new globalThis.uPlot(options, dataOf(spec), this.plot);
    this.u.over.addEventListener("dblclick", () => { this.u.zoomed = false; this.u.setData(dataOf(this.spec)); });
    const items = spec.series.map((each) => {
      const value = el("b", {});
      const swatch = el("i", { class: each.dash ? "swatch dashed" : "swatch" });
      swatch.style.borderTopColor = colourOf(each.colour);
      return { value, node: el("span", { class: "legend-item" }, swatch, el("bdi", {}, each.label), value) };
    });
    this.values = items.map((item) => item.value);
    fill(this.legend, items.map((item) => item.node), spec.more ? el("span", { class: "muted" }, `and ${spec.more} more that are not drawn`) : null);
  }

  showValues(index) {
    const format = this.spec.format || formatNumber;
    this.spec.series.forEach((each, place) => {
      const at = index === null || index === undefined ? lastKnown(each.values) : index;
      const value = at < 0 ? null : each.values[at];
      if (this.values[place]) this.values[place].textContent = value === null || value === undefined ? "" : format(value);
    });
  }

  drop() {
    if (this.u !== null) this.u.destroy();
    this.u = null;
    this.shape = "";
  }

  close() {
    this.drop();
    this.observer.disconnect();
  }
}

function lastKnown(values) {
  for (let index = values.length - 1; index >= 0; index -= 1) if (values[index] !== null) return index;
  return -1;
}

function roomFor(low, high) {
  if (low === null || high === null) return [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - pad, high + pad];
}

function dataOf(spec) {
  const columns = [spec.x];
  for (const each of spec.series) {
    columns.push(each.values);
    if (each.upper) columns.push(each.upper, each.lower);
  }
  return columns;
}

function seriesOf(spec) {
  const series = [{}];
  const bands = [];
  for (const each of spec.series) {
    const stroke = colourOf(each.colour);
    const isShort = spec.x.length <= 40;
    series.push({ label: each.label, stroke, width: each.width || 1.8, dash: each.dash, spanGaps: Boolean(each.spanGaps),
      points: { show: isShort, size: 5, stroke, fill: stroke } });
    if (each.upper) {
      const edge = { stroke: "transparent", width: 0, points: { show: false } };
      series.push({ ...edge }, { ...edge });
      bands.push({ series: [series.length - 2, series.length - 1], fill: `${stroke}33` });
    }
  }
  return { series, bands };
}

function axesOf(spec) {
  const ink = colourOf("--muted");
  const line = colourOf("--grid");
  const font = "11px system-ui, sans-serif";
  const format = spec.format || ((value) => formatTick(value));
  return [
    { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 24, space: 44,
      incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 1000000] },
    { stroke: ink, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: gutter(), space: 34,
      values: (u, splits) => splits.map((value) => (value === null ? "" : format(value, true))) },
  ];
}
