// Several runs: groups that differ in their seed only, mean and spread, growth beside each other.
import { get } from "./api.js";
import { Chart, SLOT_COLOURS } from "./charts.js";
import { card, el, emptyNote, fill, name, table } from "./dom.js";
import { formatAny, formatCount, formatMetric, formatNumber, formatTick, isFraction } from "./format.js";
import { stageLegend, stripRow } from "./strips.js";

export class ComparePage {
  constructor(shell, ids) {
    this.ids = ids;
    this.charts = [];
    this.curves = el("div", { class: "stack" });
    this.groups = el("div", {});
    this.settings = el("div", {});
    this.strips = el("div", {});
    this.spread = el("select", { "aria-label": "what is drawn", on: { change: () => this.drawCurves() } },
      el("option", { value: "mean" }, "mean and spread of each group"), el("option", { value: "runs" }, "every run"));
    this.node = el("div", { class: "page stacked", test: "compare-page" },
      el("div", { class: "page-head" }, el("div", { class: "grow" }, el("a", { href: "#/", class: "back" }, "\u2190 all runs"), el("h1", {}, "Comparison")), this.spread),
      this.curves, card("Groups", {}, this.groups), card("Settings that differ", {}, this.settings), card("Growth", {}, stageLegend(), this.strips));
  }

  async start() {
    this.data = await get("/api/compare", { runs: this.ids.join(",") });
    this.data.groups.forEach((group, index) => { group.colour = SLOT_COLOURS[index % SLOT_COLOURS.length]; });
    this.drawCurves();
    this.drawGroups();
    this.drawSettings();
    this.drawStrips();
  }

  drawCurves() {
    for (const chart of this.charts) chart.close();
    const byMetric = new Map();
    for (const group of this.data.groups) {
      const key = `${group.metric_name || "nothing"} on ${group.task}`;
      if (!byMetric.has(key)) byMetric.set(key, []);
      byMetric.get(key).push(group);
    }
    this.charts = [...byMetric].map(([key, groups]) => this.drawChart(key, groups));
    fill(this.curves, this.charts.length ? this.charts.map((chart) => chart.node) : emptyNote("no run can be compared"));
  }

  drawChart(title, groups) {
    const chart = new Chart(title, "compare-chart");
    const metric = groups[0].metric_name;
    const lines = this.spread.value === "runs"
      ? groups.flatMap((group) => group.runs.map((run) => ({ label: `${labelOf(group, groups)} seed ${run.seed}`, points: pairs(run.x, run.y), colour: group.colour })))
      : groups.map((group) => ({ label: `${labelOf(group, groups)} (n = ${group.num_runs})`, points: pairs(group.band.x, group.band.mean),
        spread: group.num_runs > 1 ? pairs(group.band.x, group.band.spread) : null, colour: group.colour }));
    const x = [...new Set(lines.flatMap((line) => [...line.points.keys()]))].sort((a, b) => a - b);
    const values = (points) => x.map((each) => points.get(each) ?? null);
    const series = lines.map((line) => {
      const mean = values(line.points);
      const spread = line.spread && values(line.spread);
      const moved = (sign) => mean.map((value, index) => (value === null || spread[index] === null ? null : value + sign * spread[index]));
      return { label: line.label, values: mean, colour: line.colour, spanGaps: true, ...(spread ? { upper: moved(1), lower: moved(-1) } : {}) };
    });
    requestAnimationFrame(() => chart.update({ x, max: Math.max(...groups.flatMap((group) => group.runs.map((run) => run.horizon)), 1), height: 280, series,
      format: (value, isAxis) => (isAxis && isFraction(metric) ? `${Number((100 * value).toFixed(2))} %` : isAxis ? formatTick(value) : formatMetric(metric, value)) }));
    return chart;
  }

  drawGroups() {
    const columns = [{ title: "Group" }, { title: "Runs", number: true }, { title: "Seeds" }, { title: "Last metric", number: true }, { title: "Test", number: true }, { title: "Parameters", number: true }, { title: "Differs in" }];
    const rows = this.data.groups.map((group) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.borderTopColor = `var(${group.colour})`;
      return el("tr", {}, el("td", {}, swatch, " ", name(labelOf(group, this.data.groups))), el("td", { class: "number" }, group.num_runs), el("td", {}, group.seeds.join(", ")),
        el("td", { class: "number" }, estimate(group.metric_name, group.last_mean, group.last_spread, group.num_runs)),
        el("td", { class: "number" }, estimate(group.metric_name, group.test_mean, group.test_spread, group.num_runs)),
        el("td", { class: "number" }, [...new Set(group.num_params)].map(formatCount).join(", ")),
        el("td", {}, differencesOf(group, this.data.groups).map(([key, value]) => el("div", {}, el("code", {}, key), " ", name(formatAny(value))))));
    });
    fill(this.groups, table(columns, rows, { test: "compare-table", label: "groups" }),
      el("p", { class: "muted" }, "Runs in a group differ in their seed, and in nothing else that changes what comes out. Spread: standard deviation over the runs of the group.",
        this.data.num_left_out ? ` ${this.data.num_left_out} older runs are left out.` : ""));
  }

  drawSettings() {
    const { keys, rows } = this.data.settings;
    if (!keys.length) {
      fill(this.settings, emptyNote("all of these runs have the same settings"));
      return;
    }
    const columns = [{ title: "Setting" }, ...rows.map((row) => ({ title: row.run }))];
    fill(this.settings, table(columns, keys.map((key, index) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, key)),
      rows.map((row) => el("td", {}, row.is_readable ? name(formatAny(row.values[index])) : "not readable")))), { test: "compare-configs", label: "settings that differ" }));
  }

  drawStrips() {
    const hosts = this.data.groups.filter((group) => !group.is_training);
    const max = Math.max(...hosts.flatMap((group) => group.runs.map((run) => run.horizon)), 1);
    const blocks = hosts.flatMap((group) => group.runs.map((run) => el("div", { class: "strip-block" },
      el("h3", {}, el("a", { href: `#/run/${run.id}` }, name(run.name))),
      run.strips.map((strip) => stripRow({ slot: strip.slot, spans: strip.spans.map(([stage, first, last]) => ({ stage, start_epoch: first, end_epoch: last, seed_id: null })) }, max)))));
    fill(this.strips, el("div", { test: "compare-strips" }, blocks.length ? blocks : emptyNote("no host run is among them")));
  }

  // The overview is followed: the comparison is made again when one of its runs went on.
  async onNews(news) {
    const shown = (news.overview ? news.overview.runs : []).filter((run) => !this.ids.length || this.ids.includes(run.id));
    const progress = shown.map((run) => `${run.id} ${run.epoch} ${run.state}`).join();
    const isFirst = this.progress === undefined;
    if (progress === this.progress || this.isBusy) return;
    this.progress = progress;
    if (isFirst) return;
    this.isBusy = true;
    await this.start().catch(() => undefined);
    this.isBusy = false;
  }

  repaint() {
    if (this.data) {
      this.drawCurves();
      this.drawStrips();
    }
  }

  close() {
    for (const chart of this.charts) chart.close();
  }
}

function pairs(x, y) {
  return new Map(x.map((each, index) => [each, y[index]]));
}

// Of settings that differ somewhere those that tell a group from others of its task; tasks differ in many.
function differencesOf(group, groups) {
  const peers = groups.filter((other) => other.task === group.task && other.is_training === group.is_training);
  return Object.entries(group.differs).filter(([key, value]) => peers.some((other) => formatAny(other.differs[key]) !== formatAny(value)));
}

// Only what tells a group from those beside it is named.
function labelOf(group, groups) {
  const peers = groups.filter((other) => other.policy === group.policy);
  const differs = Object.entries(group.differs).filter(([key, value]) => peers.some((other) => other.differs[key] !== value)).slice(0, 2).map(([key, value]) => `${key.split(".").pop()} ${formatAny(value)}`);
  return [group.policy || "run", ...differs].join(", ");
}

function estimate(metric, mean, spread, count) {
  if (mean === null) return "\u2013";
  const shown = formatMetric(metric, mean);
  return count > 1 ? `${shown} \u00b1 ${isFraction(metric) ? (100 * spread).toFixed(1) : formatNumber(spread)}` : shown;
}
