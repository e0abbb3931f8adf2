// The life of every slot as a row of stages on the same x axis as the charts above.
import { el, fill, name } from "./dom.js";
import { gutter, RIGHT_PAD } from "./charts.js";

export const STAGES = ["DORMANT", "GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING"];

export class Strips {
  constructor(title) {
    this.rows = el("div", { class: "strips" });
    this.node = el("section", { class: "card chart", "aria-label": title },
      el("div", { class: "chart-head" }, el("h2", {}, title), stageLegend()), this.rows);
  }

  // strips: [{ slot, spans: [{ stage, start_epoch, end_epoch, seed_id }] }]
  update(strips, max) {
    const rows = strips.map((strip) => stripRow(strip, Math.max(max, 1)));
    fill(this.rows, rows.length ? rows : el("p", { class: "empty" }, "this run has no slots"));
  }
}

export function stripRow(strip, max) {
  const track = el("div", { class: "strip-track" });
  for (const span of strip.spans) {
    const width = span.end_epoch - span.start_epoch;
    if (width <= 0) continue;
    const text = `${span.stage}, epochs ${span.start_epoch} to ${span.end_epoch}${span.seed_id ? `, ${span.seed_id}` : ""}`;
    const block = el("div", { class: `stage stage-${stageClass(span.stage)}`, title: text },
      span.stage === "DORMANT" ? "" : el("span", {}, span.stage.toLowerCase()));
    block.style.left = `${(100 * span.start_epoch) / max}%`;
    block.style.width = `${(100 * width) / max}%`;
    track.append(block);
  }
  track.style.marginLeft = `${gutter()}px`;
  track.style.marginRight = `${RIGHT_PAD}px`;
  const label = name(strip.slot, { class: "strip-name", title: strip.slot });
  label.style.width = `${gutter() - 8}px`;
  return el("div", { class: "strip", test: "slot-strip", "data-slot": strip.slot, role: "img", "aria-label": summaryOf(strip) }, label, track);
}

function summaryOf(strip) {
  const told = strip.spans
    .filter((span) => span.end_epoch > span.start_epoch && span.stage !== "DORMANT")
    .map((span) => `${span.stage.toLowerCase()} from ${span.start_epoch} to ${span.end_epoch}`);
  return `${strip.slot}: ${told.length ? told.join(", ") : "always empty"}`;
}

function stageClass(stage) {
  return STAGES.includes(stage) ? stage.toLowerCase() : "unknown";
}

export function stageLegend() {
  const shown = ["GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED"];
  return el("div", { class: "legend" }, shown.map((stage) =>
    el("span", { class: "legend-item" }, el("i", { class: `block stage-${stage.toLowerCase()}` }), stage.toLowerCase())));
}

export function stageBadge(stage) {
  return el("span", { class: "badge" }, el("i", { class: `block stage-${stageClass(stage)}` }), stage.toLowerCase());
}
