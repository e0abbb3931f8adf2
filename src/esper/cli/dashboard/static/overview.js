// All runs in one table, newest first.
import { get } from "./api.js";
import { el, emptyNote, fill, name, svg } from "./dom.js";
import { formatCount, formatMetric, formatTime } from "./format.js";

export class OverviewPage {
  constructor(shell) {
    this.shell = shell;
    this.runs = [];
    this.chosen = new Set();
    this.filter = el("input", { type: "search", test: "run-filter", placeholder: "Filter by name, task, policy\u2026", "aria-label": "filter runs", on: { input: () => this.draw() } });
    this.compare = el("button", { type: "button", class: "primary", test: "compare-selected", on: { click: () => this.openComparison() } }, "Compare all");
    this.body = el("tbody", { on: { keydown: (event) => this.key(event) } });
    this.note = el("p", { class: "muted", role: "status" });
    const columns = ["", "Run", "State", "Task", "Policy", "Seed", "Progress", "Metric", "Curve", "Parameters", "Started (UTC)"];
    const classes = ["", "", "", "wide", "wide", "number wide", "", "number", "", "number wide", "wide"];
    const head = el("tr", {}, columns.map((title, index) => el("th", { scope: "col", class: classes[index] }, title || el("span", { class: "sr" }, "chosen"))));
    this.node = el("div", { class: "page" },
      el("div", { class: "page-head" }, el("h1", {}, "Runs"), el("div", { class: "tools" }, this.filter, this.compare)),
      this.note,
      el("div", { class: "card flush scroll runs-list", tabindex: "0", role: "region", "aria-label": "runs" }, el("table", { test: "runs-table" }, el("thead", {}, head), this.body)));
  }

  async start() {
    this.take(await get("/api/runs"));
  }

  onNews(news) {
    if (news.overview) this.take(news.overview);
  }

  take(overview) {
    this.runs = overview.runs;
    this.overview = overview;
    this.draw();
  }

  draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.runs.filter((run) => words.every((word) => `${run.name} ${run.task} ${run.policy} ${run.state} ${run.seed}`.toLowerCase().includes(word)));
    const running = this.runs.filter((run) => run.state === "running").length;
    fill(this.note, `${this.runs.length} runs in ${this.overview.root}`, running ? `, ${running} running` : "",
      this.overview.num_unlisted ? `, ${this.overview.num_unlisted} older ones are not listed` : "", this.overview.is_behind ? ", still reading\u2026" : "");
    const focused = document.activeElement && document.activeElement.closest("[data-testid=run-row]");
    const id = focused && this.body.contains(focused) ? focused.getAttribute("data-id") : null;
    const isBox = id && document.activeElement.tagName === "INPUT";
    const rows = shown.map((run) => this.row(run));
    fill(this.body, rows.length ? rows : el("tr", {}, el("td", { colspan: 11, class: "none" }, emptyNote(this.runs.length
      ? "no run matches" : "no runs yet: `esper demo` and `esper train` write some, and they show up here"))));
    if (id) {
      const again = rows.find((row) => row.getAttribute("data-id") === id);
      if (again) again.querySelector(isBox ? "input" : "a").focus();
    }
    this.compare.textContent = this.chosen.size ? `Compare ${this.chosen.size}` : "Compare all";
  }

  row(run) {
    const box = el("input", { type: "checkbox", test: "run-check", "aria-label": `choose ${run.name}`, on: { change: (event) => this.choose(run.id, event.target.checked) } });
    box.checked = this.chosen.has(run.id);
    const test = Object.entries(run.test || {})[0];
    return el("tr", { test: "run-row", "data-run": run.name, "data-id": run.id, "data-state": run.state },
      el("td", { class: "check" }, box),
      el("td", { class: "run-name" }, el("a", { href: `#/run/${run.id}` }, name(run.name)), run.problem && el("p", { class: "problem" }, run.problem)),
      el("td", { class: "run-state" }, stateBadge(run.state)),
      el("td", { class: "wide" }, name(run.task)),
      el("td", { class: "wide" }, name(run.policy)),
      el("td", { class: "number wide" }, run.problem ? "\u2013" : String(run.seed)),
      el("td", { class: "run-progress" }, progress(run)),
      el("td", { class: "number run-metric" }, el("b", {}, formatMetric(run.metric_name, run.metric)),
        el("small", {}, test ? `test ${formatMetric(test[0], test[1])}` : run.metric_name)),
      el("td", { class: "run-curve" }, sparkline(run.curve)),
      el("td", { class: "number wide" }, formatCount(run.num_params)),
      el("td", { class: "wide muted nowrap" }, formatTime(run.started_at)));
  }

  choose(id, isChosen) {
    if (isChosen) this.chosen.add(id);
    else this.chosen.delete(id);
    this.draw();
  }

  openComparison() {
    location.hash = this.chosen.size ? `#/compare/${[...this.chosen].join(",")}` : "#/compare";
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("tr");
    if (!step || !row) return;
    const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (next && next.querySelector("a")) {
      event.preventDefault();
      next.querySelector("a").focus();
    }
  }

  close() {}
}

export function stateBadge(state) {
  const known = ["running", "finished", "interrupted", "failed", "killed"].includes(state) ? state : "other";
  return el("span", { class: `state state-${known}` }, state);
}

function progress(run) {
  if (!run.horizon) return el("span", { class: "muted" }, "\u2013");
  const unit = run.is_training ? "rounds" : "epochs";
  const bar = el("progress", { max: run.horizon, value: run.epoch, "aria-label": unit });
  return el("div", { class: "progress" }, bar, el("small", {}, `${run.epoch} / ${run.horizon} ${unit}`));
}

export function sparkline(curve) {
  const width = 110;
  const height = 28;
  const picture = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const points = curve.x.map((x, index) => [x, curve.y[index]]).filter(([, y]) => typeof y === "number");
  if (points.length < 2) return picture;
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const place = ([x, y]) => [
    2 + ((x - first) / (last - first || 1)) * (width - 6),
    height - 4 - ((y - low) / (high - low || 1)) * (height - 8),
  ];
  picture.append(svg("polyline", { points: points.map((point) => place(point).map((value) => value.toFixed(1)).join(",")).join(" ") }));
  const [cx, cy] = place(points[points.length - 1]);
  picture.append(svg("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r: 2.2 }));
  return picture;
}
