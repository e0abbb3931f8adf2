"""One run as tables and as JSON: state, metrics, slots, lifecycle. Pure: reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from esper.cli.output import Table
from esper.leyline import Event, JsonValue, StageChanged
from esper.nissa import (
    Record,
    RunSummary,
    SeedFate,
    StageSpan,
    compute_fates,
    compute_strips,
    compute_summary,
    describe_summary,
    effective_events,
    format_count,
    format_estimate,
    format_flops,
    format_seconds,
    summary_to_plain,
)
from esper.runtime.run_records import RunInfo


def format_time(stamp: str) -> str:
    """Return an ISO 8601 time in UTC as a person writes it, without its zone."""
    return stamp.removesuffix("+00:00").replace("T", " ")


def render_tables(info: RunInfo, records: Sequence[Record]) -> tuple[Table, ...]:
    """Return the tables of a run: run, results, seeds, lifecycle.

    Args:
        info: Its directory.
        records: Its events; none before the first one is written.
    """
    events = effective_events(records)
    summary = compute_summary(records)
    seeds = _seed_table(compute_fates(events), compute_strips(events))
    return (_run_table(info, summary), _result_table(summary), seeds, _life_table(events))


def view_to_json(info: RunInfo, records: Sequence[Record]) -> dict[str, JsonValue]:
    """Return the same as JSON: kind, run, summary, seeds, lifecycle."""
    events = effective_events(records)
    strips = compute_strips(events)
    return {
        "kind": "host",
        "run": info.to_json(),
        "summary": summary_to_plain(compute_summary(records)),
        "seeds": [_seed_to_json(fate, strips) for fate in compute_fates(events)],
        "lifecycle": [_step_to_json(event) for event in events if isinstance(event, StageChanged)],
    }


def _run_table(info: RunInfo, summary: RunSummary) -> Table:
    left = f"{summary.num_epochs} of {summary.horizon_epochs}" if summary.horizon_epochs else "0"
    code = "" if info.exit_code is None else f" (exit code {info.exit_code})"
    rows = (
        ("directory", str(info.path)),
        ("state", f"{info.state}{code}"),
        ("task", info.task),
        ("policy", info.policy),
        ("seed", str(info.seed)),
        ("epochs", f"{left} in {format_seconds(summary.seconds)}"),
        ("started", f"{format_time(info.started_at)} UTC"),
        ("resumed", f"{info.attempt} times" if info.attempt else "never"),
        ("run id", info.run_id),
    )
    return Table(title="Run", columns=("what", "value"), rows=rows)


def _result_table(summary: RunSummary) -> Table:
    rows = describe_summary(summary) if summary.horizon_epochs else ()
    return Table(title="Results", columns=("what", "value"), rows=rows)


def _seed_table(fates: Sequence[SeedFate], strips: Mapping[str, Sequence[StageSpan]]) -> Table:
    rows = [
        (
            fate.slot,
            fate.seed_id,
            fate.blueprint,
            _stage_of(fate, strips),
            format_estimate(fate.contribution, fate.contribution_error),
            format_count(fate.num_params),
            format_flops(fate.flops_per_item),
        )
        for fate in fates
    ]
    tried = {fate.slot for fate in fates}
    rows += [
        (slot, "-", "-", spans[-1].stage, "-", "-", "-")
        for slot, spans in strips.items()
        if slot not in tried
    ]
    columns = ("slot", "seed", "blueprint", "stage", "contribution", "parameters", "FLOPs per item")
    return Table(title="Slots", columns=columns, rows=tuple(sorted(rows)), numbers=frozenset(columns[4:]))


def _life_table(events: Sequence[Event]) -> Table:
    rows = tuple(
        (str(event.epoch), event.slot, event.seed_id or "-", f"{event.old} > {event.new}", event.reason)
        for event in events
        if isinstance(event, StageChanged)
    )
    columns = ("epoch", "slot", "seed", "stage", "reason")
    return Table(title="Lifecycle", columns=columns, rows=rows, numbers=frozenset({"epoch"}))


def _stage_of(fate: SeedFate, strips: Mapping[str, Sequence[StageSpan]]) -> str:
    """A seed that is kept or removed has its outcome; a live one has its slot's stage."""
    spans = strips.get(fate.slot, ())
    return spans[-1].stage if fate.outcome == "live" and spans else fate.outcome.upper()


def _seed_to_json(fate: SeedFate, strips: Mapping[str, Sequence[StageSpan]]) -> dict[str, JsonValue]:
    return {
        "slot": fate.slot,
        "seed_id": fate.seed_id,
        "blueprint": fate.blueprint,
        "stage": _stage_of(fate, strips),
        "contribution": fate.contribution,
        "contribution_error": fate.contribution_error,
        "num_params": fate.num_params,
        "flops_per_item": fate.flops_per_item,
        "start_epoch": fate.start_epoch,
        "end_epoch": fate.end_epoch,
    }


def _step_to_json(event: StageChanged) -> dict[str, JsonValue]:
    return {
        "epoch": event.epoch,
        "slot": event.slot,
        "seed_id": event.seed_id,
        "old": event.old,
        "new": event.new,
        "reason": event.reason,
    }
