"""The report's words: Markdown sections made of a run's summary, seeds, decisions and stages. Pure text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from esper.leyline import (
    DIAGNOSTIC_KINDS,
    DecisionMade,
    Event,
    LifecycleOp,
    RedFlagRaised,
    RolledBack,
    SeedStage,
)
from esper.nissa.analytics.history import SeedFate, StageSpan
from esper.nissa.analytics.scoreboard import BlueprintScore
from esper.nissa.analytics.summary import NOT_COUNTED, RunSummary, total_flops
from esper.nissa.text import (
    clean_text,
    format_count,
    format_estimate,
    format_flops,
    format_metric,
    format_percent,
    format_seconds,
)
from esper.nissa.wording_diagnostics import narrate

MAX_FLAGS = 50
"""Red flags listed one by one."""
MAX_DECISION_ROWS = 200
"""Decisions listed one by one; a longer run tells how many more there are in the event file."""

_MARKUP = re.compile(r"[\\`*{}\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_PLUS_MINUS = "\u00b1"
_DASH = "-"


def render_head(summary: RunSummary) -> str:
    """Return the title and the facts of the run."""
    lines = [
        f"# Growth run: {_cell(summary.task or 'unnamed task')}",
        "",
        f"Policy {_cell(summary.policy)}, seed {summary.seed}; {summary.num_epochs} of "
        f"{summary.horizon_epochs} epochs in {format_seconds(summary.seconds)}; "
        f"ended: {_cell(summary.status)}.",
        "",
    ]
    return "\n".join(lines) + "\n" + _table(("quantity", "value"), describe_summary(summary))


def describe_summary(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return what a run came to as (quantity, value) rows for a person."""
    name = summary.metric_name
    tests = [
        (f"test {each}", format_metric(each, value)) for each, value in sorted(summary.test_metrics.items())
    ]
    return (
        (f"best validation {name}", _best(summary)),
        (f"last validation {name}", _optional_metric(name, summary.last_metric)),
        ("last validation loss", _optional_metric("loss", summary.last_validation_loss)),
        ("last training loss", _optional_metric("loss", summary.last_train_loss)),
        *(tests or [("test", "not read: the run has not reached its end")]),
        ("parameters", f"{format_count(summary.total_params)} (host {format_count(summary.host_params)})"),
        ("compute", format_flops(total_flops(summary.flops))),
        ("seeds", f"{summary.num_germinated} germinated, {summary.num_fossilized} fossilized, "
                  f"{summary.num_culled} culled"),
        ("rollbacks", str(summary.num_rollbacks)),
    )  # fmt: skip


def render_slots(fates: Sequence[SeedFate], strips: Mapping[str, Sequence[StageSpan]]) -> str:
    """Return the summary table: what lives in every slot at the end."""
    rows = []
    for slot, spans in strips.items():
        tried = [fate for fate in fates if fate.slot == slot]
        last = tried[-1] if tried and tried[-1].outcome != "culled" else None
        stage = spans[-1].stage if spans else SeedStage.DORMANT.value
        rows.append(
            (
                slot,
                _DASH if last is None else last.blueprint,
                stage,
                _DASH if last is None else _estimate(last),
                _DASH if last is None else format_count(last.num_params),
                _DASH if last is None else format_flops(last.flops_per_item),
                str(len(tried)),
            )
        )
    head = ("slot", "blueprint", "stage", f"contribution {_PLUS_MINUS} s.e.", "parameters", "FLOPs per item",
            "seeds tried")  # fmt: skip
    note = "Contribution: metric with the seed minus metric without it, in the units that the gates used.\n"
    return _section("Slots", _table(head, rows), note)


def render_flops(summary: RunSummary) -> str:
    """Return the compute bill by kind; plain validation stands below the total, which leaves it out."""
    total = total_flops(summary.flops)
    kinds = sorted(summary.flops.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (kind, format_flops(flops), format_percent(flops / total) if total else _DASH)
        for kind, flops in kinds
        if kind != NOT_COUNTED
    ]
    rows.append(("all", format_flops(total), format_percent(1.0) if total else _DASH))
    rows += [
        (f"{kind} (not counted)", format_flops(flops), _DASH) for kind, flops in kinds if kind == NOT_COUNTED
    ]
    return _section("Compute by kind", _table(("kind", "FLOPs", "share"), rows))


def render_decisions(events: Iterable[Event]) -> str:
    """Return how often each operation was chosen and refused, and every decision but WAIT."""
    decisions = [event for event in events if isinstance(event, DecisionMade)]
    chosen = Counter(event.op for event in decisions)
    refused = Counter(event.op for event in decisions if event.refusal is not None)
    counts = [(op, str(chosen[op]), str(refused[op])) for op in sorted(chosen)]
    acts = [event for event in decisions if event.op != LifecycleOp.WAIT.value]
    rows = [
        (
            str(event.epoch),
            event.op,
            event.slot or _DASH,
            event.blueprint or _DASH,
            event.reason,
            "done" if event.refusal is None else f"refused: {event.refusal}",
        )
        for event in acts[:MAX_DECISION_ROWS]
    ]
    more = len(acts) - len(rows)
    return _section(
        "Decisions",
        _table(("operation", "chosen", "refused"), counts),
        _table(("epoch", "operation", "slot", "blueprint", "reason", "outcome"), rows),
        f"{more} more decisions are in the event file.\n" if more else "",
    )


def render_lifecycle(fates: Sequence[SeedFate], strips: Mapping[str, Sequence[StageSpan]]) -> str:
    """Return every stage of every seed with its epochs."""
    blueprints = {fate.seed_id: fate.blueprint for fate in fates}
    rows = [
        (
            slot,
            span.seed_id or _DASH,
            blueprints.get(span.seed_id or "", _DASH),
            span.stage,
            str(span.start_epoch),
            str(span.end_epoch),
        )
        for slot, spans in strips.items()
        for span in spans
        if span.stage != SeedStage.DORMANT.value
    ]
    head = ("slot", "seed", "blueprint", "stage", "from epoch", "to epoch")
    return _section("Lifecycle", _table(head, rows))


def render_seeds(fates: Sequence[SeedFate]) -> str:
    """Return what became of every seed."""
    rows = [
        (
            fate.seed_id,
            fate.blueprint,
            str(fate.start_epoch),
            _DASH if fate.end_epoch is None else str(fate.end_epoch),
            fate.outcome + (f": {fate.reason}" if fate.reason else ""),
            _estimate(fate),
            format_count(fate.num_params),
        )
        for fate in fates
    ]
    head = ("seed", "blueprint", "germinated", "ended", "outcome", f"contribution {_PLUS_MINUS} s.e.",
            "parameters")  # fmt: skip
    return _section("Seeds", _table(head, rows))


def render_scoreboard(scores: Iterable[BlueprintScore]) -> str:
    """Return the scoreboard of blueprints."""
    rows = [
        (
            score.blueprint,
            str(score.num_germinated),
            str(score.num_fossilized),
            str(score.num_culled),
            _DASH if score.keep_rate is None else format_percent(score.keep_rate),
            format_estimate(score.mean_contribution, None),
        )
        for score in scores
    ]
    head = ("blueprint", "germinated", "fossilized", "culled", "keep rate", "mean contribution")
    return _section("Blueprints", _table(head, rows))


def render_rollbacks(events: Iterable[Event]) -> str:
    """Return the rollbacks; an empty text where there was none."""
    rows = [
        (str(event.restored_epoch), event.verdict, event.reason, event.blamed_slot or _DASH)
        for event in events
        if isinstance(event, RolledBack)
    ]
    if not rows:
        return ""
    return _section("Rollbacks", _table(("back to epoch", "verdict", "reason", "blamed slot"), rows))


def _section(title: str, *parts: str) -> str:
    return "\n".join((f"\n## {title}\n", *(part for part in parts if part)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), "|" + " --- |" * len(head), *map(_row, rows)]
    return "\n".join(lines) + "\n" if len(lines) > 2 else "None.\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def render_diagnostics(events: Sequence[Event]) -> str:
    """Say what was measured last of each kind, and every red flag; an empty text where nothing was."""
    last = {event.kind: event for event in events if event.kind in DIAGNOSTIC_KINDS}
    last.pop(RedFlagRaised.__name__, None)
    flags = [event for event in events if isinstance(event, RedFlagRaised)]
    shown = [f"Epoch {event.epoch}: {narrate(event)}" for event in last.values()]
    shown += [str(narrate(event)) for event in flags[:MAX_FLAGS]]
    if len(flags) > MAX_FLAGS:
        shown.append(f"{len(flags) - MAX_FLAGS} more red flags are in the event file.")
    if not shown:
        return ""
    return "\n## Diagnostics\n\n" + "".join(f"* {_cell(text)}\n" for text in shown)


def _cell(text: str) -> str:
    """Make foreign text inert in Markdown: no control characters, tags, links, emphasis or extra columns."""
    cleaned = clean_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    cleaned = cleaned.replace("://", "&#58;//")  # no link by itself
    return _MARKUP.sub(r"\\\g<0>", cleaned)


def _estimate(fate: SeedFate) -> str:
    return format_estimate(fate.contribution, fate.contribution_error, sign=_PLUS_MINUS)


def _optional_metric(name: str, value: float | None) -> str:
    return _DASH if value is None else format_metric(name, value)


def _best(summary: RunSummary) -> str:
    value = _optional_metric(summary.metric_name, summary.best_metric)
    return value if summary.best_epoch is None else f"{value} (epoch {summary.best_epoch})"
