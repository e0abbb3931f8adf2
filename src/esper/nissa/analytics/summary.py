"""A run in a few numbers: what `summary.json` holds and lists of runs show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import final

from esper.leyline import EpochCompleted, Event, JsonValue, RolledBack, RunFinished, RunStarted
from esper.nissa.analytics.history import SeedFate, compute_curves, compute_fates, effective_events
from esper.nissa.codec import SCHEMA_VERSION, to_plain_tree
from esper.nissa.record import Record


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One host run; epochs and metrics are those of the history that no rollback undid."""

    status: str = "unfinished"
    """Reason of the last RunFinished ("horizon", "interrupted", "governor"); "unfinished" = none since the
    last start."""
    task: str = ""
    policy: str = ""
    seed: int = 0
    horizon_epochs: int = 0
    num_epochs: int = 0
    """Epochs finished."""
    metric_name: str = "metric"
    best_metric: float | None = None
    """Validation metric of the best epoch, as a reader expects it; not finite ones are left out."""
    best_epoch: int | None = None
    last_metric: float | None = None
    last_train_loss: float | None = None
    last_validation_loss: float | None = None
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    """On the test split, read once at the end; empty before."""
    host_params: int = 0
    total_params: int = 0
    """Host and seeds at the end."""
    flops: Mapping[str, int] = field(default_factory=dict)
    """Spent so far, by kind."""
    fossils: tuple[SeedFate, ...] = ()
    num_germinated: int = 0
    num_fossilized: int = 0
    num_culled: int = 0
    num_rollbacks: int = 0
    seconds: float = 0.0
    """Time in epochs, those that were rolled back or superseded left out."""


def compute_summary(records: Sequence[Record], instance: int = 0) -> RunSummary:
    """Sum up one host run.

    Args:
        records: As a reader returns them.
        instance: Which host run of a fleet.

    Example:
        >>> summary = compute_summary(log.records)
        >>> summary.task, summary.policy, summary.num_germinated
        ('synthetic', 'cycle', 2)
    """
    events = effective_events(records, instance)
    curves, fates = compute_curves(events), compute_fates(events)
    epochs = {event.epoch: event for event in events if isinstance(event, EpochCompleted)}
    sound = [event for event in epochs.values() if math.isfinite(event.metric)]
    best = max(sound, key=lambda event: event.metric, default=None)
    last = epochs[max(epochs)] if epochs else None
    start, finish = _ends(events)
    fossils = tuple(fate for fate in fates if fate.outcome == "fossilized")
    return RunSummary(
        status="unfinished" if finish is None else finish.reason,
        task="" if start is None else start.task,
        policy="" if start is None else start.policy,
        seed=0 if start is None else start.seed,
        horizon_epochs=0 if start is None else start.horizon_epochs,
        num_epochs=0 if last is None else last.epoch,
        metric_name=curves.metric_name,
        best_metric=None if best is None else _shown(best, curves.metric_name),
        best_epoch=None if best is None else best.epoch,
        last_metric=None if last is None else _shown(last, curves.metric_name),
        last_train_loss=None if last is None else last.train_loss,
        last_validation_loss=None if last is None else last.validation_loss,
        test_metrics={} if finish is None else finish.test_metrics,
        host_params=0 if start is None else start.host_params,
        total_params=_total_params(start, last, finish),
        flops=_flops(last, finish),
        fossils=fossils,
        num_germinated=len(fates),
        num_fossilized=len(fossils),
        num_culled=sum(fate.outcome == "culled" for fate in fates),
        num_rollbacks=sum(isinstance(event, RolledBack) for event in events),
        seconds=math.fsum(event.seconds for event in epochs.values()),
    )


def summary_to_plain(summary: RunSummary) -> JsonValue:
    """Return the summary as JSON data with its format version; numbers that are not finite become null.

    Example:
        >>> summary_to_plain(compute_summary(log.records))["task"]
        'synthetic'
    """
    tree = to_plain_tree({"schema_version": SCHEMA_VERSION, **asdict(summary)})
    value = dict(tree.value) if isinstance(tree.value, Mapping) else {}
    if tree.nonfinite:
        value["nonfinite"] = tree.nonfinite
    return value


def _ends(events: Sequence[Event]) -> tuple[RunStarted | None, RunFinished | None]:
    """Return the last start, and the finish after it."""
    start: RunStarted | None = None
    finish: RunFinished | None = None
    for event in events:
        if isinstance(event, RunStarted):
            start, finish = event, None
        elif isinstance(event, RunFinished):
            finish = event
    return start, finish


def _shown(event: EpochCompleted, name: str) -> float:
    return event.raw_metrics.get(name, event.metric)


def _total_params(start: RunStarted | None, last: EpochCompleted | None, finish: RunFinished | None) -> int:
    if finish is not None and finish.total_params:
        return finish.total_params
    if last is not None:
        return last.total_params
    return 0 if start is None else start.host_params


def _flops(last: EpochCompleted | None, finish: RunFinished | None) -> Mapping[str, int]:
    if finish is not None and finish.flops:
        return finish.flops
    return {} if last is None else last.flops
