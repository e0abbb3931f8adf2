// The training of a policy: a chart per quantity of its rounds, and every environment.
import { get } from "./api.js";
import { Chart } from "./charts.js";
import { card, el, emptyNote, fill, name, table } from "./dom.js";
import { formatCount, formatMetric, formatNumber, formatSigned, NOT_RECORDED } from "./format.js";
import { sparkline } from "./overview.js";

const PANELS = [
  ["Return per episode", "rollout/ep_rew_mean", "--c1"],
  ["Gain over never growing", "rollout/gain_mean", "--c3"],
  ["Approximate KL", "train/approx_kl", "--c2"],
  ["Clip fraction", "train/clip_fraction", "--c4"],
  ["Explained variance", "train/explained_variance", "--c5"],
  ["Value loss", "train/value_loss", "--c6"],
  ["Policy loss", "train/policy_gradient_loss", "--c7"],
  ["Gradient norm", "train/grad_norm", "--c8"],
];
const GROUPS = [["Entropy per head", "train/entropy/"], ["Share of operations", "rollout/op_share/"]];
const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8"];

export class TrainingTab {
  constructor(run) {
    this.run = run;
    this.facts = el("dl", { class: "facts" });
    this.charts = new Map();
    this.grid = el("div", { class: "grid" });
    this.more = el("select", { "aria-label": "further quantity", on: { change: () => this.drawMore() } });
    this.moreChart = new Chart("Any other quantity");
    this.environments = el("div", {});
    this.episodes = el("div", {});
    this.anomalies = el("div", {});
    this.node = el("div", { class: "stack", test: "ppo-panel" }, this.facts, this.anomalies, this.grid,
      el("div", { class: "stack tight" }, el("label", { class: "muted" }, "Every number of a round: ", this.more), this.moreChart.node),
      card("Environments", {}, this.environments), this.episodes);
  }

  async refresh() {
    const data = await get(`/api/runs/${this.run.id}/training`);
    this.data = data;
    this.drawFacts();
    this.max = data.start ? data.start.num_rounds : 0;
    for (const [title, metric, colour] of PANELS) this.drawChart(title, metric, [{ label: metric.split("/").pop(), values: data.metrics[metric], colour }]);
    for (const [title, prefix] of GROUPS) {
      const names = Object.keys(data.metrics).filter((metric) => metric.startsWith(prefix));
      this.drawChart(title, prefix, names.map((metric, index) => ({ label: metric.slice(prefix.length), values: data.metrics[metric], colour: COLOURS[index % 8] })));
    }
    const chosen = this.more.value;
    const names = Object.keys(data.metrics);
    fill(this.more, names.map((metric) => el("option", { value: metric }, metric)));
    this.more.value = names.includes(chosen) ? chosen : names.find((metric) => metric.includes("flops_ratio")) || names[0] || "";
    this.drawMore();
    this.drawEnvironments();
    fill(this.anomalies, data.anomalies.length ? card("Signs of trouble", { test: "anomaly-list" }, el("ul", { class: "plain" }, data.anomalies.slice(-20).reverse().map((found) =>
      el("li", {}, el("b", {}, `round ${found.epoch} ${found.name}`), ` ${formatNumber(found.value)} (limit ${formatNumber(found.threshold)}): `, name(found.advice))))) : null);
  }

  drawChart(title, metric, series) {
    if (!this.charts.has(metric)) {
      const chart = new Chart(title, "ppo-chart", { "data-metric": metric });
      this.charts.set(metric, chart);
      this.grid.append(chart.node);
    }
    this.charts.get(metric).update({ x: this.data.x, max: this.max, shared: true, height: 170, empty: NOT_RECORDED, series: series.filter((each) => each.values && each.values.some((value) => value !== null)) });
  }

  drawMore() {
    const metric = this.more.value;
    const values = this.data.metrics[metric];
    this.moreChart.update({ x: this.data.x, max: this.max, shared: true, height: 170, empty: NOT_RECORDED, series: values ? [{ label: metric, values, colour: "--c3" }] : [] });
  }

  drawFacts() {
    const { data } = this;
    const start = data.start || {};
    const items = [
      ["Round", `${data.x.length ? data.x[data.x.length - 1] : 0} of ${formatNumber(start.num_rounds)}`],
      ["Environments", formatNumber(start.num_envs)],
      ["Epochs per host", formatNumber(start.horizon_epochs)],
      ["Environment steps", formatCount(data.num_env_steps[data.num_env_steps.length - 1])],
      ["Policy parameters", formatCount(start.num_parameters)],
      ["Hosts grown", formatCount(data.environments.reduce((sum, each) => sum + each.num_episodes, 0))],
    ];
    fill(this.facts, items.map(([title, value]) => el("div", {}, el("dt", {}, title), el("dd", {}, value))));
  }

  drawEnvironments() {
    if (!this.data.environments.length) {
      fill(this.environments, emptyNote("no host has ended yet"));
      return;
    }
    const columns = [{ title: "Environment" }, { title: "Hosts", number: true }, { title: "Return", number: true }, { title: "Mean", number: true }, { title: "Curve" },
      { title: "Metric", number: true }, { title: "Gain", number: true }, { title: "Kept", number: true }, { title: "Added", number: true }, { title: "FLOPs", number: true }, { title: "Ended" }];
    const rows = this.data.environments.map((env) => el("tr", { test: "env-row", "data-env": env.env_id, class: this.run.env === env.env_id ? "selected" : "" },
      el("td", {}, el("button", { type: "button", class: "link", on: { click: () => this.run.chooseEnv(env.env_id) } }, `environment ${env.env_id}`)),
      el("td", { class: "number" }, formatNumber(env.num_episodes)), el("td", { class: "number" }, formatSigned(env.return_last)),
      el("td", { class: "number" }, formatSigned(env.return_mean)), el("td", {}, sparkline(env.curve)),
      el("td", { class: "number" }, formatNumber(env.metric)), el("td", { class: "number" }, formatSigned(env.gain)),
      el("td", { class: "number" }, formatNumber(env.num_fossils)), el("td", { class: "number" }, formatCount(env.added_params)),
      el("td", { class: "number" }, env.flops_ratio === null ? "\u2013" : `${env.flops_ratio.toFixed(2)} x`),
      el("td", { class: env.num_failed ? "problem" : "" }, env.num_failed ? `${env.num_failed} failed` : env.reason)));
    const had = this.environments.querySelector(".scroll");
    const top = had ? had.scrollTop : 0;
    fill(this.environments, el("div", { class: "tall" }, table(columns, rows, { test: "env-table", label: "environments" })));
    this.environments.querySelector(".scroll").scrollTop = top;
    this.drawEpisodes();
  }

  drawEpisodes() {
    const env = this.data.environments.find((each) => each.env_id === this.run.env);
    if (!env) {
      fill(this.episodes);
      return;
    }
    const columns = [{ title: "Round", number: true }, { title: "Host", number: true }, { title: "Return", number: true }, { title: "Metric", number: true },
      { title: "Never growing", number: true }, { title: "Kept", number: true }, { title: "Refused", number: true }, { title: "Operations" }, { title: "Ended" }];
    const rows = [...env.episodes].reverse().map((host) => el("tr", {},
      el("td", { class: "number" }, host.epoch), el("td", { class: "number" }, host.instance), el("td", { class: "number" }, formatSigned(host.total_reward)),
      el("td", { class: "number" }, formatMetric("", host.metric)), el("td", { class: "number" }, formatNumber(host.never_metric)),
      el("td", { class: "number" }, host.num_fossils), el("td", { class: "number" }, host.num_refused),
      el("td", {}, Object.entries(host.ops).filter(([, count]) => count).map(([op, count]) => `${op} ${count}`).join(", ")), el("td", {}, name(host.reason))));
    fill(this.episodes, card(`Hosts of environment ${env.env_id}, newest first`, {}, table(columns, rows, { label: "hosts" })));
  }

  repaint() {
    for (const chart of [...this.charts.values(), this.moreChart]) chart.repaint();
  }

  close() {
    for (const chart of [...this.charts.values(), this.moreChart]) chart.close();
  }
}
