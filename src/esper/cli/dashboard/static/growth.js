// One host run: curves, and below them on the same axis what grew in every slot.
import { get } from "./api.js";
import { Chart, SLOT_COLOURS } from "./charts.js";
import { Details } from "./details.js";
import { card, el, emptyNote, fill, name, table } from "./dom.js";
import { formatAny, formatCount, formatMetric, formatNumber, formatSigned, formatTick, isFraction, NOT_RECORDED } from "./format.js";
import { stageBadge, Strips } from "./strips.js";

export class GrowthTab {
  constructor(run) {
    this.run = run;
    this.metric = new Chart("Metric", "metric-chart");
    this.loss = new Chart("Loss", "loss-chart");
    this.strips = new Strips("Life of every slot");
    this.contribution = new Chart("Contribution of every slot, with standard error", "contribution-chart");
    this.alpha = new Chart("Alpha", "alpha-chart");
    this.gradients = new Chart("Gradient norm of the host");
    this.ratios = new Chart("Gradients of seeds relative to the host");
    this.details = new Details();
    this.flags = el("div", {});
    this.seeds = el("div", {});
    this.facts = el("dl", { class: "facts" });
    this.marks = el("div", {});
    this.charts = [this.metric, this.loss, this.contribution, this.alpha, this.gradients, this.ratios];
    this.node = el("div", { class: "stack" }, this.facts, this.metric.node, this.loss.node, this.strips.node,
      this.contribution.node, this.alpha.node, card("Seeds", {}, this.seeds), this.marks, this.flags,
      el("div", { class: "stack", test: "gradient-panel" }, this.gradients.node, this.ratios.node), this.details.node);
  }

  async refresh() {
    const data = await get(`/api/runs/${this.run.id}/growth`, { instance: this.run.instance });
    this.data = data;
    const format = (value, isAxis) => (isAxis && isFraction(data.metric_name) ? `${Number((100 * value).toFixed(2))} %` : isAxis ? formatTick(value) : formatMetric(data.metric_name, value));
    const max = data.horizon;
    const shared = { x: data.x, max, shared: true };
    this.metric.update({ ...shared, format, height: 240, series: present([
      { label: `validation ${data.metric_name}`, values: data.series.metric, colour: "--c1", width: 2.2 },
      data.series.train_metric && { label: `training ${data.metric_name}`, values: data.series.train_metric, colour: "--grey", dash: [5, 4] },
    ]) });
    this.loss.update({ ...shared, series: [
      { label: "validation", values: data.series.validation_loss, colour: "--c1", width: 2.2 },
      { label: "training", values: data.series.train_loss, colour: "--grey", dash: [5, 4] },
    ] });
    this.strips.update(data.strips, max);
    this.drawSlots(data, max);
    this.drawGradients(data, shared, max);
    this.drawSeeds(data);
    this.drawFacts(data);
    this.drawMarks(data);
  }

  drawSlots(data, max) {
    const names = data.strips.map((strip) => strip.slot);
    for (const slot of Object.keys(data.slots.by_slot)) if (!names.includes(slot)) names.push(slot);
    const colours = Object.fromEntries(names.map((slot, index) => [slot, SLOT_COLOURS[index % SLOT_COLOURS.length]]));
    const lines = (field, more) => names.filter((slot) => data.slots.by_slot[slot] && data.slots.by_slot[slot][field].some((value) => value !== null))
      .map((slot) => ({ label: slot, values: data.slots.by_slot[slot][field], colour: colours[slot], ...(more ? more(data.slots.by_slot[slot]) : {}) }));
    const shared = { x: data.slots.x, max, shared: true, height: 180 };
    this.contribution.update({ ...shared, format: (value, isAxis) => (isAxis ? formatTick(value) : formatSigned(value)), empty: "no contribution has been measured yet",
      series: lines("contribution", (slot) => ({ upper: edge(slot, 1), lower: edge(slot, -1) })) });
    this.alpha.update({ ...shared, height: 140, empty: "no seed is blended in yet", series: lines("alpha") });
    this.ratios.update({ ...shared, height: 150, empty: NOT_RECORDED, series: lines("gradient_ratio") });
  }

  drawGradients(data, shared) {
    this.gradients.update({ ...shared, height: 150, series: [{ label: "host", values: data.series.host_gradient_norm, colour: "--c2" }] });
    this.details.update(data, shared.max);
    const flags = data.red_flags;
    fill(this.flags, flags.length ? card("Red flags", { test: "flag-list" }, el("ul", { class: "plain" }, flags.map((flag) =>
      el("li", {}, el("b", {}, `epoch ${flag.epoch} `), name(flag.name.replaceAll("_", " ")), flag.where ? [" in ", name(flag.where)] : "",
        ` ${formatNumber(flag.value)} (limit ${formatNumber(flag.threshold)}) `, el("span", { class: "muted" }, name(flag.advice || ""),
          flag.raised_to ? ["; telemetry is ", name(flag.raised_to), ` for ${flag.raised_epochs} epochs`] : ""))))) : null);
  }

  drawSeeds(data) {
    if (!data.seeds.length) {
      fill(this.seeds, emptyNote("no seed has germinated yet"));
      return;
    }
    const columns = [{ title: "Seed" }, { title: "Slot" }, { title: "Blueprint" }, { title: "Parameters", number: true },
      { title: "Epochs" }, { title: "Outcome" }, { title: "Contribution", number: true }, { title: "Error", number: true }, { title: "Reason" }];
    const rows = data.seeds.map((seed) => el("tr", {},
      el("td", {}, name(seed.seed_id)), el("td", {}, name(seed.slot)), el("td", {}, name(seed.blueprint)),
      el("td", { class: "number" }, formatCount(seed.num_params)),
      el("td", {}, `${seed.start_epoch} \u2013 ${seed.end_epoch === null ? "now" : seed.end_epoch}`),
      el("td", {}, seed.outcome === "live" ? "live" : stageBadge(seed.outcome === "fossilized" ? "FOSSILIZED" : "CULLED")),
      el("td", { class: "number" }, seed.contribution === null ? "not measured" : formatSigned(seed.contribution)),
      el("td", { class: "number" }, formatNumber(seed.contribution_error)), el("td", {}, name(seed.reason))));
    fill(this.seeds, table(columns, rows, { test: "seed-table", label: "seeds" }));
  }

  drawFacts(data) {
    const params = lastOf(data.series.total_params);
    const test = data.finished ? Object.entries(data.finished.test_metrics) : [];
    const items = [
      ["Epoch", `${data.x.length ? data.x[data.x.length - 1] : 0} of ${data.horizon}`],
      [`Validation ${data.metric_name}`, formatMetric(data.metric_name, lastOf(data.series.metric))],
      ...test.map(([label, value]) => [`Test ${label}`, formatMetric(label, value)]),
      ["Validation loss", formatNumber(lastOf(data.series.validation_loss))],
      ["Parameters", data.host_params === null ? formatCount(params) : `${formatCount(params)} (host ${formatCount(data.host_params)})`],
      ["Seeds", `${data.seeds.filter((seed) => seed.outcome === "fossilized").length} kept, ${data.seeds.filter((seed) => seed.outcome === "culled").length} culled, ${data.seeds.filter((seed) => seed.outcome === "live").length} live`],
      ["Learning rate", formatNumber(lastOf(data.series.learning_rate))],
    ];
    fill(this.facts, items.map(([title, value]) => el("div", {}, el("dt", {}, title), el("dd", {}, value))));
  }

  drawMarks(data) {
    fill(this.marks, data.markers.length ? card("Signs of trouble, rollbacks, resumed starts", {}, el("ul", { class: "plain" }, data.markers.map((mark) =>
      el("li", {}, el("b", {}, `epoch ${mark.epoch} ${mark.kind}`), " ", el("bdi", {}, formatAny(mark.fields)))))) : null);
  }

  repaint() {
    for (const chart of this.charts) chart.repaint();
    this.details.repaint();
    if (this.data) this.strips.update(this.data.strips, this.data.horizon);
  }

  close() {
    for (const chart of this.charts) chart.close();
    this.details.close();
  }
}

function edge(slot, sign) {
  return slot.contribution.map((value, index) => (value === null || slot.contribution_error[index] === null ? null : value + sign * slot.contribution_error[index]));
}

export function present(items) {
  return items.filter(Boolean);
}

export function lastOf(values) {
  for (let index = values.length - 1; index >= 0; index -= 1) if (values[index] !== null) return values[index];
  return null;
}
