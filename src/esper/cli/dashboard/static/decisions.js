// What the policy decided, and for one decision everything that was recorded about it.
import { get } from "./api.js";
import { el, emptyNote, fill, name } from "./dom.js";
import { formatAny, formatNumber, formatSigned, NOT_RECORDED } from "./format.js";
import { RowList } from "./rows.js";

const OPS = ["WAIT", "GERMINATE", "ADVANCE", "FOSSILIZE", "CULL", "SET_ALPHA"];
const PLAIN_FIELDS = ["op", "slot", "blueprint", "blend", "curve", "tempo_epochs", "alpha_target", "confidence", "reason", "refusal"];

export class DecisionsTab {
  constructor(run) {
    this.run = run;
    this.op = el("select", { "aria-label": "operation", on: { change: () => this.list.refresh(true) } },
      el("option", { value: "" }, "every operation"), OPS.map((op) => el("option", { value: op }, op)));
    this.count = el("span", { class: "muted" });
    this.list = new RowList({
      test: "decision-list", label: "decisions", opensOnMove: true, empty: `decisions are ${NOT_RECORDED} in this run`,
      load: (start, count) => this.load(start, count), draw: drawDecision, onOpen: (row) => this.open(row),
    });
    this.inspector = el("div", { class: "card inspector", test: "inspector", "aria-live": "polite" }, emptyNote("Choose a decision to see what the policy saw, what it could do and what came of it."));
    this.node = el("div", { class: "split" },
      el("section", { class: "card flush", "aria-label": "decisions" }, el("div", { class: "list-head" }, this.op, this.count), this.list.node), this.inspector);
    this.opened = null;
  }

  async load(start, count) {
    const found = await get(`/api/runs/${this.run.id}/decisions`, { instance: this.run.filterInstance, env: this.run.env, start, count, op: this.op.value });
    fill(this.count, `${found.total.toLocaleString("en")} decisions`);
    return found;
  }

  async refresh(isNew) {
    await this.list.refresh(isNew);
    if (this.opened === null && this.list.total && this.list.selected < 0) await this.list.select(Math.max(0, firstAct(this.list)), true);
  }

  async open(row) {
    this.opened = row.n;
    const found = await get(`/api/runs/${this.run.id}/decision`, { n: row.n });
    if (this.opened === row.n) fill(this.inspector, inspect(found));
  }

  repaint() {}

  close() {
    this.list.close();
  }
}

function firstAct(list) {
  for (let index = 0; index < Math.min(100, list.total); index += 1) {
    const row = list.rowAt(index);
    if (row && row.op !== "WAIT") return index;
  }
  return 0;
}

function drawDecision(row) {
  const target = [row.slot, row.blueprint].filter(Boolean).join(" \u2190 ");
  return {
    props: { test: "decision-row", "data-n": row.n, "data-op": row.op },
    children: [
      el("span", { class: "cell epoch" }, row.round === null ? `e${row.epoch}` : `r${row.round} e${row.epoch}`),
      row.env_id === null ? null : el("span", { class: "cell host" }, `env ${row.env_id}`),
      el("span", { class: `op op-${OPS.includes(row.op) ? row.op.toLowerCase() : "other"}` }, row.op),
      row.refusal && el("span", { class: "problem" }, "refused"),
      el("bdi", { class: "cell target" }, target),
      el("bdi", { class: "cell rest muted" }, row.reason),
    ],
  };
}

function inspect(found) {
  const fields = found.fields;
  return [
    el("h2", {}, fields.round === null || fields.round === undefined ? "" : `Round ${fields.round}, environment ${fields.env_id}, `, `epoch ${fields.epoch}: `, name(fields.op), fields.slot ? [" in ", name(fields.slot)] : ""),
    el("dl", { class: "pairs" }, PLAIN_FIELDS.filter((key) => fields[key] !== null && fields[key] !== undefined)
      .map((key) => [el("dt", {}, key.replaceAll("_", " ")), el("dd", {}, el("bdi", {}, formatAny(fields[key])))])),
    part("Value", "inspector-value", typeof fields.value === "number" || typeof fields.value === "string" ? el("p", { class: "big" }, formatNumber(fields.value)) : null),
    part("Reward", "inspector-reward", rewardOf(found.reward)),
    part("Probabilities", "inspector-probabilities", headsOf(fields.probabilities, found, true)),
    part("Masks: what was legal", "inspector-masks", headsOf(fields.legal, found, false)),
    part("Observation", "inspector-observation", observationOf(fields.observation, found.slots)),
  ];
}

function part(title, test, content) {
  return el("section", { class: "part", test }, el("h3", {}, title), content || emptyNote(NOT_RECORDED));
}

function rewardOf(reward) {
  if (!reward) return null;
  const parts = Object.entries(reward.parts || {});
  const size = Math.max(...parts.map(([, value]) => Math.abs(Number(value))).filter(Number.isFinite), 1e-12);
  return [
    el("p", { class: "big" }, formatSigned(reward.total), el("small", {}, reward.return_so_far === null || reward.return_so_far === undefined ? "" : ` return so far ${formatSigned(reward.return_so_far)}`)),
    el("div", { class: "bars" }, parts.map(([label, value]) => bar(label, value, Math.abs(Number(value)) / size, formatSigned(value), value < 0 ? "minus" : "plus"))),
  ];
}

function headsOf(heads, found, isProbability) {
  const entries = Object.entries(heads || {});
  if (!entries.length) return null;
  return entries.map(([head, values]) => {
    const names = (found.heads && found.heads[head]) || [];
    const legal = ((found.fields.legal || {})[head]) || [];
    const best = isProbability ? values.indexOf(Math.max(...values.filter((value) => typeof value === "number"))) : -1;
    return el("div", { class: "head" }, el("h4", {}, name(head)), isProbability
      ? el("div", { class: "bars" }, values.map((value, index) => bar(names[index] || `option ${index}`, value, Number(value), `${(100 * value).toFixed(1)} %`,
        `${index === best ? "best" : ""} ${legal[index] === false ? "illegal" : ""}`)))
      : el("ul", { class: "masks" }, values.map((isLegal, index) => el("li", { class: isLegal ? "legal" : "illegal" },
        el("span", { "aria-hidden": "true" }, isLegal ? "\u2713 " : "\u2715 "), name(names[index] || `option ${index}`), el("span", { class: "sr" }, isLegal ? " legal" : " illegal")))));
  });
}

function bar(label, value, share, text, kind) {
  const fillNode = el("i", { class: `fill ${kind || ""}` });
  fillNode.style.width = `${Math.max(0, Math.min(100, 100 * (Number.isFinite(share) ? share : 0)))}%`;
  return el("div", { class: `bar-row ${kind || ""}` }, el("bdi", { class: "bar-name", title: label }, label), el("span", { class: "bar-track" }, fillNode), el("span", { class: "bar-value" }, text));
}

// Names "slot/feature" are shown as one group per slot, the others as the first group.
function observationOf(observation, slots) {
  const entries = Object.entries(observation || {});
  if (!entries.length) return null;
  const groups = new Map();
  for (const [key, value] of entries) {
    const group = slots.filter((slot) => key.startsWith(`${slot}/`)).sort((a, b) => b.length - a.length)[0] || "";
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push([group ? key.slice(group.length + 1) : key, value]);
  }
  const shown = [...groups].sort((a, b) => (a[0] === "" ? -1 : b[0] === "" ? 1 : 0)).map(([group, values]) => el("details", { open: groups.size <= 4 },
    el("summary", {}, group ? name(group) : "host", ` (${values.length})`),
    el("dl", { class: "pairs dense" }, values.map(([key, value]) => [el("dt", {}, name(key)), el("dd", {}, formatNumber(value))]))));
  return [el("p", { class: "muted" }, "As the policy read it; features that were 0 are left out."), ...shown];
}
