"""Events as the named numbers that trackers draw. Pure functions; knows no tracker.

Training of a policy keeps the names that Stable-Baselines3 writes ("rollout/ep_rew_mean", "train/approx_kl"),
on the axis that it uses: environment steps. A host's numbers lie on the axis of its epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from esper.leyline import (
    EpochCompleted,
    Event,
    PolicyTrainingStarted,
    PolicyUpdated,
    RolledBack,
    RunFinished,
    RunStarted,
    SeedStage,
    SlotMeasured,
    StageChanged,
)
from esper.nissa.analytics.history import total_flops
from esper.nissa.text import clean_text

EPOCH_AXIS = "epoch"
"""Axis of a host's numbers: epochs finished."""
STEP_AXIS = "time/total_timesteps"
"""Axis of a training's numbers: environment steps, by the name that Stable-Baselines3 gives them."""
STAGE_NUMBERS: Mapping[str, int] = MappingProxyType(
    {stage.value: place for place, stage in enumerate(SeedStage)}
)
"""Stage -> its number on a curve, in the order of `SeedStage`."""

_TRAIN = "train_"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scalars:
    """Numbers at one place of an axis.

    Example:
        Scalars(axis="epoch", step=3, values={"validation/accuracy": 0.91})
    """

    axis: str
    """`EPOCH_AXIS` or `STEP_AXIS`."""
    step: int
    values: Mapping[str, float]


def compute_scalars(event: Event) -> Scalars | None:
    """Return the numbers of an event; None where it has none.

    Those of other hosts than the first begin with "host<instance>/".

    Example:
        >>> events = effective_events(log.records)
        >>> scalars = compute_scalars(next(event for event in events if event.kind == "EpochCompleted"))
        >>> scalars.axis, scalars.step, sorted(scalars.values)[-2:]
        ('epoch', 1, ['validation/accuracy', 'validation/loss'])
    """
    if isinstance(event, PolicyUpdated):
        values = {
            **event.metrics,
            STEP_AXIS: float(event.num_env_steps),
            "time/iterations": float(event.epoch),
        }
        return Scalars(axis=STEP_AXIS, step=event.num_env_steps, values=_clean(values, ""))
    collect = _COLLECTORS.get(type(event))
    found = {} if collect is None else collect(event)
    if not found:
        return None
    prefix = f"host{event.instance}/" if event.instance else ""
    return Scalars(axis=EPOCH_AXIS, step=event.epoch, values=_clean(found, prefix))


def goes_back(event: Event) -> bool:
    """Whether what comes next begins at an earlier place: after a rollback, or a resume from a checkpoint."""
    if isinstance(event, RunStarted | PolicyTrainingStarted):
        return event.is_resumed
    return isinstance(event, RolledBack) and not event.is_terminal


def _clean(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {prefix + clean_text(name): value for name, value in values.items()}


def _collect_epoch(event: Event) -> Mapping[str, float]:
    assert isinstance(event, EpochCompleted)
    metrics = {
        f"train/{name.removeprefix(_TRAIN)}" if name.startswith(_TRAIN) else f"validation/{name}": value
        for name, value in event.raw_metrics.items()
    }
    return {
        **metrics,
        "train/loss": event.train_loss,
        "validation/loss": event.validation_loss,
        "train/learning_rate": event.learning_rate,
        "train/host_gradient_norm": event.host_gradient_norm,
        "growth/total_params": float(event.total_params),
        "growth/total_flops": float(total_flops(event.flops)),
        "time/epoch_seconds": event.seconds,
    }


def _collect_slot(event: Event) -> Mapping[str, float]:
    assert isinstance(event, SlotMeasured)
    found = {
        "alpha": event.alpha,
        "contribution": event.contribution,
        "contribution_error": event.contribution_error,
        "shadow_gain": event.shadow_gain,
        "credit": event.credit,
        "gradient_ratio": event.gradient_ratio,
    }
    return {f"slots/{event.slot}/{name}": value for name, value in found.items() if value is not None}


def _collect_stage(event: Event) -> Mapping[str, float]:
    assert isinstance(event, StageChanged)
    number = STAGE_NUMBERS.get(event.new)
    return {} if number is None else {f"slots/{event.slot}/stage": float(number)}


def _collect_finish(event: Event) -> Mapping[str, float]:
    assert isinstance(event, RunFinished)
    return {f"test/{name}": value for name, value in event.test_metrics.items()}


_COLLECTORS: Mapping[type[Event], Callable[[Event], Mapping[str, float]]] = MappingProxyType(
    {
        EpochCompleted: _collect_epoch,
        SlotMeasured: _collect_slot,
        StageChanged: _collect_stage,
        RunFinished: _collect_finish,
    }
)
"""Event type -> what its numbers are called."""
