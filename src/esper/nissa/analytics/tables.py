"""The report's words: sections made of a run's summary, seeds, decisions and stages. Pure."""

from __future__ import annotations

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
from esper.nissa.analytics.document import Block, Section, TextBlock, build_table
from esper.nissa.analytics.history import NOT_COUNTED, SeedFate, StageSpan, total_flops
from esper.nissa.analytics.scoreboard import BlueprintScore
from esper.nissa.analytics.summary import RunSummary
from esper.nissa.text import (
    format_count,
    format_estimate,
    format_flops,
    format_metric,
    format_percent,
    format_seconds,
)
from esper.nissa.wording_diagnostics import narrate

MAX_DECISION_ROWS = 200
"""Decisions listed one by one; a longer run tells how many more there are in the event file."""

_PLUS_MINUS = "\u00b1"
_DASH = "-"


def name_run(summary: RunSummary) -> str:
    """Return the title of a report."""
    return f"Growth run: {summary.task or 'unnamed task'}"


def build_head(summary: RunSummary) -> tuple[Block, ...]:
    """Return the facts of the run."""
    text = (
        f"Policy {summary.policy}, seed {summary.seed}; {summary.num_epochs} of {summary.horizon_epochs} "
        f"epochs in {format_seconds(summary.seconds)}; ended: {summary.status}."
    )
    return (TextBlock(text=text), build_table(("quantity", "value"), describe_summary(summary)))


def describe_summary(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return what a run came to as (quantity, value) rows for a person.

    Example:
        >>> dict(describe_summary(compute_summary(log.records)))["rollbacks"]
        '0'
    """
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


def build_slots(fates: Sequence[SeedFate], strips: Mapping[str, Sequence[StageSpan]]) -> Section:
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
    note = (
        "Contribution: what the seed brings to the quantity that the gates judge; of a loss, that without it "
        "minus that with it."
    )
    return _section("Slots", build_table(head, rows), TextBlock(text=note))


def build_flops(summary: RunSummary) -> Section:
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
    return _section("Compute by kind", build_table(("kind", "FLOPs", "share"), rows))


def build_decisions(events: Iterable[Event]) -> Section:
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
        build_table(("operation", "chosen", "refused"), counts),
        build_table(("epoch", "operation", "slot", "blueprint", "reason", "outcome"), rows),
        *([TextBlock(text=f"{more} more decisions are in the event file.")] if more else []),
    )


def build_lifecycle(fates: Sequence[SeedFate], strips: Mapping[str, Sequence[StageSpan]]) -> Section:
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
    return _section("Lifecycle", build_table(head, rows))


def build_seeds(fates: Sequence[SeedFate]) -> Section:
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
    return _section("Seeds", build_table(head, rows))


def build_scoreboard(scores: Iterable[BlueprintScore]) -> Section:
    """Return the scoreboard of blueprints."""
    rows = [
        (
            score.blueprint,
            str(score.num_germinated),
            str(score.num_fossilized),
            str(score.num_culled),
            _optional_percent(score.keep_rate),
            format_estimate(score.mean_contribution, None),
            _optional_change(score.mean_gain),
            _optional_change(score.mean_blend_delta),
            format_count(score.params_added),
            _optional_percent(score.churn),
            _optional_age(score.mean_fossilized_age_epochs),
            _optional_age(score.mean_culled_age_epochs),
        )
        for score in scores
    ]
    head = ("blueprint", "germinated", "fossilized", "culled", "keep rate", "mean contribution", "mean gain",
            "mean blend delta", "parameters added", "churn", "age when kept", "age when culled")  # fmt: skip
    note = (
        "Gain: change of the validation metric (higher is better) from germination to the end, the host's "
        "own progress included; blend delta: the same since blending began. Churn: parameters of culled "
        "seeds over those of all that germinated. Ages in epochs."
    )
    return _section("Blueprints", build_table(head, rows), *([TextBlock(text=note)] if rows else []))


def build_rollbacks(events: Iterable[Event]) -> Section | None:
    """Return the rollbacks; None where there was none."""
    rows = [
        (str(event.restored_epoch), event.verdict, event.reason, event.blamed_slot or _DASH)
        for event in events
        if isinstance(event, RolledBack)
    ]
    if not rows:
        return None
    return _section("Rollbacks", build_table(("back to epoch", "verdict", "reason", "blamed slot"), rows))


def build_diagnostics(events: Sequence[Event]) -> Section | None:
    """Return what was measured last of each kind, in words; None where nothing was."""
    last = {event.kind: event for event in events if event.kind in DIAGNOSTIC_KINDS}
    last.pop(RedFlagRaised.__name__, None)
    if not last:
        return None
    rows = [(str(event.epoch), str(narrate(event))) for event in last.values()]
    return _section("Diagnostics", build_table(("epoch", "measured last"), rows))


def _section(title: str, *blocks: Block) -> Section:
    return Section(title=title, blocks=blocks)


def _estimate(fate: SeedFate) -> str:
    return format_estimate(fate.contribution, fate.contribution_error, sign=_PLUS_MINUS)


def _optional_metric(name: str, value: float | None) -> str:
    return _DASH if value is None else format_metric(name, value)


def _best(summary: RunSummary) -> str:
    value = _optional_metric(summary.metric_name, summary.best_metric)
    return value if summary.best_epoch is None else f"{value} (epoch {summary.best_epoch})"


def _optional_percent(value: float | None) -> str:
    return _DASH if value is None else format_percent(value)


def _optional_change(value: float | None) -> str:
    return _DASH if value is None else f"{value:+.4f}"


def _optional_age(value: float | None) -> str:
    return _DASH if value is None else f"{value:.1f}"
