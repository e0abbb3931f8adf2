// Everything that was recorded, as a list that can be filtered.
import { get } from "./api.js";
import { el, emptyNote, fill } from "./dom.js";
import { formatAny, formatClock, formatNumber } from "./format.js";
import { RowList } from "./rows.js";

export class EventsTab {
  constructor(run) {
    this.run = run;
    this.text = el("input", { type: "search", test: "event-filter", placeholder: "Words in the event\u2026", "aria-label": "filter events", on: { input: () => this.later() } });
    this.kind = el("select", { test: "event-kind", "aria-label": "kind of event", on: { change: () => this.list.refresh(true) } });
    this.count = el("span", { class: "muted" });
    this.list = new RowList({
      test: "event-list", label: "events", opensOnMove: true, startsAtEnd: run.head.state === "running", empty: "no event matches",
      load: (start, count) => this.load(start, count), draw: (row) => drawEvent(row, run.head), onOpen: (row) => fill(this.detail, detailOf(row)),
    });
    this.detail = el("div", { class: "card inspector", "aria-live": "polite" }, emptyNote("Choose an event to see all of it."));
    this.node = el("div", { class: "split" }, el("section", { class: "card flush", "aria-label": "events" },
      el("div", { class: "list-head" }, this.text, this.kind, this.count), this.list.node), this.detail);
    this.timer = null;
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.list.refresh(true), 200);
  }

  async load(start, count) {
    const found = await get(`/api/runs/${this.run.id}/events`, { instance: this.run.filterInstance, env: this.run.env, start, count, kind: this.kind.value, text: this.text.value.slice(0, 200) });
    fill(this.count, `${found.total.toLocaleString("en")} events`);
    return found;
  }

  async refresh(isNew) {
    const kinds = Object.entries(this.run.head.kinds || {});
    const chosen = this.kind.value;
    fill(this.kind, el("option", { value: "" }, "every kind"), kinds.map(([kind, count]) => el("option", { value: kind }, `${kind} (${count.toLocaleString("en")})`)));
    this.kind.value = kinds.some(([kind]) => kind === chosen) ? chosen : "";
    await this.list.refresh(isNew);
  }

  repaint() {}

  close() {
    clearTimeout(this.timer);
    this.list.close();
  }
}

// A training of a policy counts rounds; what it tells of a host counts that host's epochs.
export function placeOf(row, head) {
  return `${head.is_training && head.kinds.PolicyTrainingStarted && (row.fields.round === undefined || row.fields.round === null) ? "r" : "e"}${row.epoch}`;
}

export function eventText(row) {
  const fields = row.fields;
  if (row.kind === "StageChanged") return `${fields.slot}: ${fields.old} \u2192 ${fields.new}${fields.reason ? `, ${fields.reason}` : ""}`;
  if (row.kind === "EpochCompleted") return `metric ${formatNumber(fields.metric)}, loss ${formatNumber(fields.validation_loss)}, training loss ${formatNumber(fields.train_loss)}`;
  if (row.kind === "DecisionMade") return `${fields.op}${fields.slot ? ` ${fields.slot}` : ""}${fields.blueprint ? ` \u2190 ${fields.blueprint}` : ""}${fields.refusal ? `, refused: ${fields.refusal}` : ""}: ${fields.reason}`;
  if (row.kind === "GateEvaluated") return `${fields.slot}: ${fields.gate} ${fields.is_passed ? "passed" : `not passed: ${formatAny(fields.failed || [])}`}`;
  if (row.kind === "SeedGerminated") return `${fields.slot}: ${fields.blueprint} as ${fields.seed_id}, ${formatNumber(fields.num_params)} parameters`;
  if (row.kind === "SlotMeasured") return `${fields.slot}: ${fields.stage}, alpha ${formatNumber(fields.alpha)}${fields.contribution === undefined ? "" : `, contribution ${formatNumber(fields.contribution)}`}`;
  if (row.kind === "GradientsMeasured") return `health ${formatNumber(fields.health)}, ${fields.num_batches} batches, profile ${fields.profile}`;
  if (row.kind === "RedFlagRaised") return `${fields.name.replaceAll("_", " ")}${fields.where ? ` in ${fields.where}` : ""} ${formatNumber(fields.value)} (limit ${formatNumber(fields.threshold)}): ${fields.advice || ""}`;
  if (row.kind === "RunFinished") return `${fields.reason}${fields.test_metrics ? `, test ${formatAny(fields.test_metrics)}` : ""}`;
  if (row.kind === "PolicyUpdated") return `${formatNumber(fields.num_env_steps)} environment steps`;
  return Object.entries(fields).map(([key, value]) => `${key} ${formatAny(value)}`).join(" \u00b7 ");
}

function drawEvent(row, head) {
  return {
    props: { test: "event-row", "data-kind": row.kind, "data-n": row.n },
    children: [
      el("span", { class: "cell epoch" }, placeOf(row, head)),
      row.instance ? el("span", { class: "cell host" }, `#${row.instance}`) : null,
      el("span", { class: `kind kind-${toneOf(row.kind)}` }, row.kind),
      el("bdi", { class: "cell rest" }, eventText(row)),
    ],
  };
}

function toneOf(kind) {
  if (/Failed|RolledBack|Skipped|Anomaly|RedFlag|Dropped/.test(kind)) return "bad";
  if (/Fossilized|Finished|Started/.test(kind)) return "good";
  if (/Seed|Stage|Alpha|Decision|Gate/.test(kind)) return "act";
  return "plain";
}

function detailOf(row) {
  return [
    el("h2", {}, row.kind),
    el("p", { class: "muted" }, `epoch ${row.epoch}, host ${row.instance}, process ${row.rank}, ${formatClock(row.time)} UTC, place ${row.n}`),
    el("dl", { class: "pairs" }, Object.entries(row.fields).map(([key, value]) => [el("dt", {}, key.replaceAll("_", " ")), el("dd", {}, el("bdi", {}, formatAny(value)))])),
  ];
}
