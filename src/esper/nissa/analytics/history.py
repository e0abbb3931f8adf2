"""What happened, as data to draw: metric curves, the life of every slot, the fate of every seed.

Pure functions over records of one host run; nothing here formats or draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import final

from esper.leyline import (
    DecisionMade,
    EpochCompleted,
    Event,
    JsonValue,
    RewardGranted,
    RolledBack,
    RunStarted,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedStage,
    SlotMeasured,
    StageChanged,
)
from esper.nissa.record import Record

NOT_COUNTED = "validation"
"""Kind of spending outside totals: plain validation is the same in every arm of a comparison."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpan:
    """A slot in one stage, from one decision point to another.

    Example:
        StageSpan(stage="TRAINING", start_epoch=4, end_epoch=7, seed_id="block2#1")
    """

    stage: str
    start_epoch: int
    """Epochs finished when the stage began."""
    end_epoch: int
    """Epochs finished when it ended; equal to the start where a slot moved on at once."""
    seed_id: str | None
    """None for an empty slot; a removed seed is named until its slot is free."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricCurves:
    """One number per finished epoch, all tuples of the same length."""

    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    metric_name: str
    """As a reader knows it, e.g. "accuracy"; "metric" where the run gave no name."""
    metric: tuple[float, ...]
    """Validation, as a reader expects it."""
    train_metric: tuple[float, ...] | None
    """Same metric on training data; None where the run did not record it."""
    total_params: tuple[int, ...]
    total_flops: tuple[int, ...] = ()
    """Spent until then, `NOT_COUNTED` left out."""
    is_higher_better: bool = True
    """Of the metric as a reader expects it; False for a loss or a perplexity."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SeedFate:
    """One seed from germination to where it ended."""

    seed_id: str
    slot: str
    blueprint: str
    num_params: int
    flops_per_item: int
    start_epoch: int
    end_epoch: int | None = None
    """When it was kept or removed; None = still live."""
    outcome: str = "live"
    """"live", "fossilized" or "culled"."""
    reason: str = ""
    """Why it was culled."""
    contribution: float | None = None
    """At the end, or the last one measured; None = never measured."""
    contribution_error: float | None = None
    blend_epoch: int | None = None
    """Epochs finished when it began to blend in; None = it never did."""
    gain: float | None = None
    """Validation metric, higher is better, at the seed's end (or now) minus that at its germination: the
    host's own progress included; None = one of the two was not measured."""
    blend_delta: float | None = None
    """The same since it began to blend in."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


def effective_events(records: Iterable[Record], instance: int = 0) -> tuple[Event, ...]:
    """Return the events of one host run that still hold: what a rollback undid is left out.

    The governor restores the state after epoch r's bookkeeping and before the decision that followed it, so
    everything from that decision on is undone. The RolledBack event itself stays.

    Example:
        >>> events = effective_events(log.records)
        >>> type(events[0]).__name__, type(events[-1]).__name__
        ('RunStarted', 'RunFinished')
    """
    kept: list[Event] = []
    is_undone = False
    for record in records:
        event = record.event
        if event.instance != instance:
            continue
        if isinstance(event, RolledBack):
            del kept[_first_undone(kept, event.restored_epoch) :]
            is_undone = True
        elif isinstance(event, DecisionMade):
            is_undone = False
        elif isinstance(event, RewardGranted) and is_undone:
            continue  # of the decision that was taken back
        kept.append(event)
    return tuple(kept)


def _first_undone(events: list[Event], epoch: int) -> int:
    for index, event in enumerate(events):
        is_later = event.epoch > epoch and not isinstance(event, RolledBack)
        if is_later or (isinstance(event, DecisionMade) and event.epoch == epoch):
            return index
    return len(events)


def compute_curves(events: Iterable[Event]) -> MetricCurves:
    """Return the curves of one host run; a repeated epoch counts as last told.

    Args:
        events: As `effective_events` returns them.

    Example:
        >>> curves = compute_curves(effective_events(log.records))
        >>> curves.metric_name, curves.epochs
        ('accuracy', (1, 2, 3, 4, 5, 6, 7, 8))
    """
    by_epoch = {event.epoch: event for event in events if isinstance(event, EpochCompleted)}
    epochs = tuple(sorted(by_epoch))
    rows = [by_epoch[epoch] for epoch in epochs]
    names = {name for row in rows for name in row.raw_metrics if not name.startswith("train_")}
    name = min(names, default="metric")
    train_name = f"train_{name}"
    has_train = bool(rows) and all(train_name in row.raw_metrics for row in rows)
    return MetricCurves(
        epochs=epochs,
        train_loss=tuple(row.train_loss for row in rows),
        validation_loss=tuple(row.validation_loss for row in rows),
        metric_name=name,
        metric=tuple(row.raw_metrics.get(name, row.metric) for row in rows),
        train_metric=tuple(row.raw_metrics[train_name] for row in rows) if has_train else None,
        total_params=tuple(row.total_params for row in rows),
        total_flops=tuple(total_flops(row.flops) for row in rows),
        is_higher_better=all(_is_as_inside(row.metric, row.raw_metrics.get(name)) for row in rows),
    )


def total_flops(flops: Mapping[str, int]) -> int:
    """Return the bill over all kinds but `NOT_COUNTED`: training, measuring, and seeds that were culled.

    Example:
        >>> total_flops({"host_train": 100, "seed_train": 20, NOT_COUNTED: 7})
        120
    """
    return sum(amount for kind, amount in flops.items() if kind != NOT_COUNTED)


def _is_as_inside(inside: float, shown: float | None) -> bool:
    """Whether a metric is shown as it is inside, where higher is better; else it was turned around."""
    return shown is None or not math.isfinite(inside) or math.isclose(inside, shown, abs_tol=1e-12)


def compute_strips(events: Iterable[Event]) -> Mapping[str, tuple[StageSpan, ...]]:
    """Return slot id -> its stages in order, from epoch 0 to the last epoch told of, without a gap.

    Args:
        events: As `effective_events` returns them.

    Example:
        >>> strips = compute_strips(effective_events(log.records))
        >>> [span.stage for span in strips["hidden1"]][:3]
        ['DORMANT', 'GERMINATED', 'TRAINING']
    """
    strips: dict[str, list[StageSpan]] = {}
    last_epoch = 0
    for event in events:
        last_epoch = max(last_epoch, event.epoch)
        if isinstance(event, RunStarted):
            for slot in event.slots:
                strips.setdefault(slot, [_first_span()])
        elif isinstance(event, StageChanged):
            spans = strips.setdefault(event.slot, [_first_span()])
            spans[-1] = replace(spans[-1], end_epoch=event.epoch)
            is_empty = event.new == SeedStage.DORMANT.value
            spans.append(
                StageSpan(
                    stage=event.new,
                    start_epoch=event.epoch,
                    end_epoch=event.epoch,
                    seed_id=None if is_empty else event.seed_id or spans[-1].seed_id,
                )
            )
    return {
        slot: (*spans[:-1], replace(spans[-1], end_epoch=max(last_epoch, spans[-1].start_epoch)))
        for slot, spans in strips.items()
    }


def _first_span() -> StageSpan:
    return StageSpan(stage=SeedStage.DORMANT.value, start_epoch=0, end_epoch=0, seed_id=None)


def compute_fates(events: Iterable[Event]) -> tuple[SeedFate, ...]:
    """Return every seed that ever germinated, in order of germination.

    Args:
        events: As `effective_events` returns them.

    Example:
        >>> [(fate.slot, fate.outcome) for fate in compute_fates(effective_events(log.records))]
        [('hidden1', 'fossilized'), ('hidden2', 'culled')]
    """
    fates: dict[str, SeedFate] = {}
    metrics: dict[int, float] = {}
    for event in events:
        if isinstance(event, EpochCompleted):
            metrics[event.epoch] = event.metric
        elif isinstance(event, StageChanged) and event.seed_id in fates:
            fates[event.seed_id] = _begin_to_blend(fates[event.seed_id], event)
        elif isinstance(event, SeedGerminated):
            fates[event.seed_id] = SeedFate(
                seed_id=event.seed_id,
                slot=event.slot,
                blueprint=event.blueprint,
                num_params=event.num_params,
                flops_per_item=event.flops_per_item,
                start_epoch=event.epoch,
            )
        elif isinstance(event, SlotMeasured | SeedFossilized | SeedCulled) and event.seed_id in fates:
            fates[event.seed_id] = _follow(fates[event.seed_id], event)
    return tuple(_measure_gains(fate, metrics) for fate in fates.values())


def _begin_to_blend(fate: SeedFate, event: StageChanged) -> SeedFate:
    is_first = event.new == SeedStage.BLENDING.value and fate.blend_epoch is None
    return replace(fate, blend_epoch=event.epoch) if is_first else fate


def _measure_gains(fate: SeedFate, metrics: Mapping[int, float]) -> SeedFate:
    last = max(metrics, default=0) if fate.end_epoch is None else fate.end_epoch

    def since(epoch: int | None) -> float | None:
        if epoch is None or epoch not in metrics or last not in metrics:
            return None
        return metrics[last] - metrics[epoch]

    return replace(fate, gain=since(fate.start_epoch), blend_delta=since(fate.blend_epoch))


def _follow(fate: SeedFate, event: SlotMeasured | SeedFossilized | SeedCulled) -> SeedFate:
    if isinstance(event, SeedCulled):
        fate = replace(fate, outcome="culled", end_epoch=event.epoch, reason=event.reason)
    elif fate.outcome != "live":
        return fate
    elif isinstance(event, SeedFossilized):
        fate = replace(fate, outcome="fossilized", end_epoch=event.epoch)
    if event.contribution is None:
        return fate
    error = fate.contribution_error if isinstance(event, SeedCulled) else event.contribution_error
    return replace(fate, contribution=event.contribution, contribution_error=error)
