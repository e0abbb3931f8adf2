"""What a seed is worth in somebody else's loop: their own evaluation, asked once per setting, paired.

```
as it is     statistics re-estimated on inputs seen in training > evaluate()
per setting  one slot's alpha forced > statistics re-estimated > evaluate() > difference
```
An evaluation that returns one number per item is paired item by item and has a standard error at once. One
that returns a single number has none: its differences are pooled over intervals, and nothing is claimed
before three of them. Knows nothing about losses or batches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from esper.kasmina import ForwardPlan, MorphogeneticModel, norms_with_statistics, untouched_rng
from esper.leyline import ConfigError, Estimate, JsonValue, MetricSpec, SeedStage, SlotOutcome, suggest
from esper.tolaria.measuring import ContributionPool, Setting, estimate_mean, eval_mode
from esper.tolaria.norm_statistics import batch_statistics, read_statistics, write_statistics
from esper.tolaria.steps import plan_settings

if TYPE_CHECKING:
    from esper.tolaria.input_recorder import InputRecorder

MIN_SCALARS = 3
"""Measurements of a single number before a standard error can be given."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One evaluation, turned so that higher is better."""

    mean: float
    items: Tensor | None = None
    """float64 [N], the metric of each item; None where the evaluation gave one number."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Every number that came with it, as it was given."""


def read_values(values: object, metric: MetricSpec) -> Reading:
    """Return what an evaluation gave.

    Args:
        values: A number, a tensor of one number or of one per item [N], or a mapping that holds one of these
            under the metric's name.
        metric: Its name and direction.

    Raises:
        ConfigError: If the metric is not there, is no number, or is not finite; says what was found.
    """
    others: dict[str, float] = {}
    value = values
    if isinstance(values, Mapping):
        if metric.name not in values:
            raise ConfigError(
                f"the evaluation returned {', '.join(map(repr, values)) or 'nothing'}, not the metric "
                f"{metric.name!r}: {suggest(metric.name, list(map(str, values)))}, or name it by metric="
            )
        value = values[metric.name]
        for name, other in values.items():
            number = _as_number(other)
            if number is not None:
                others[str(name)] = number
    sign = 1.0 if metric.is_higher_better else -1.0
    if isinstance(value, Tensor) and value.dim() == 1 and len(value) > 1:
        items = sign * value.detach().to("cpu", torch.float64)
        if not bool(items.isfinite().all()):
            raise ConfigError(f"the evaluation's {metric.name!r} is not finite for every item")
        return Reading(mean=float(items.mean()), items=items, others=others)
    number = _as_number(value)
    if number is None or not math.isfinite(number):
        raise ConfigError(
            f"the evaluation's {metric.name!r} is {str(value)[:60]!r} ({type(value).__name__}): expected a "
            "finite number, or a tensor [N] with one per item"
        )
    return Reading(mean=sign * number, others=others)


def _as_number(value: object) -> float | None:
    if isinstance(value, Tensor):
        return float(value.double().mean()) if value.numel() and not value.is_complex() else None
    return float(value) if isinstance(value, int | float) else None


@final
class GuestMeasurer:
    """Measures every seed that can be measured, and pools what it finds over a stage."""

    def __init__(self, metric: MetricSpec, recorder: InputRecorder) -> None:
        """Bind the metric, and the inputs that statistics are re-estimated on."""
        self._metric = metric
        self._recorder = recorder
        self._pool = ContributionPool()
        self._scalars: dict[str, list[float]] = {}
        self._keys: dict[str, str] = {}

    def measure(self, model: MorphogeneticModel, evaluate: Callable[[], object]) -> dict[str, SlotOutcome]:
        """Return contributions and shadow gains by slot; modes, buffers and plans are as before afterwards.

        Args:
            model: The grown model that `evaluate` evaluates.
            evaluate: Evaluates it on validation items, the same ones in the same order in every call.

        Raises:
            ConfigError: If what it returns is no metric, or another number of items than before.
        """
        settings = plan_settings(model)
        if not settings or not self.can_measure(model):
            return {}
        readings = list(self._ask(model, settings, evaluate))
        outcomes = {}
        for setting, reading in zip(settings, readings[1:], strict=True):
            outcomes[setting.slot] = self._compare(model, setting, readings[0], reading)
        return outcomes

    def can_measure(self, model: MorphogeneticModel) -> bool:
        """Whether statistics can be re-estimated, if there are any: inputs have been seen."""
        return not norms_with_statistics(model) or self._recorder.num_batches > 0

    def refresh_statistics(self, model: MorphogeneticModel) -> None:
        """Re-estimate every norm's running statistics for the network as it is now, if inputs were seen."""
        if norms_with_statistics(model) and self._recorder.num_batches:
            with torch.no_grad():
                self._calibrate(model)

    def _ask(
        self, model: MorphogeneticModel, settings: Sequence[Setting], evaluate: Callable[[], object]
    ) -> Iterator[Reading]:
        norms = norms_with_statistics(model)
        saved = read_statistics(norms)
        count: int | None = None
        for setting in (None, *settings):
            overrides = {} if setting is None else {setting.slot: setting.alpha}
            plan = ForwardPlan(overrides=overrides)
            # A loader draws from torch's stream when it begins: how many seeds live must not move it.
            stream = untouched_rng(torch.device("cpu"))
            with stream, _modes_kept(model), torch.no_grad(), model.planned(plan):
                try:
                    if norms:
                        self._calibrate(model)
                    reading = read_values(evaluate(), self._metric)
                finally:
                    write_statistics(norms, saved)
            found = None if reading.items is None else len(reading.items)
            if setting is not None and found != count:
                raise ConfigError(
                    f"evaluate() returned {count} items and then {found}: it must go through the same items "
                    "in the same order every time (no shuffling)"
                )
            count = found
            yield reading

    def _calibrate(self, model: MorphogeneticModel) -> None:
        with eval_mode(model):
            norms = norms_with_statistics(model)
            with batch_statistics(norms, num_batches=self._recorder.num_batches):
                self._recorder.run_again(model.host)

    def _compare(
        self, model: MorphogeneticModel, setting: Setting, as_it_is: Reading, changed: Reading
    ) -> SlotOutcome:
        state = model.slot(setting.slot).state
        is_shadow = setting.alpha > 0.0
        if as_it_is.items is not None and changed.items is not None:
            differences = as_it_is.items - changed.items
            if is_shadow:
                return SlotOutcome(shadow_gain=estimate_mean(-differences))
            pooled = self._pool.add(setting.slot, str(state.seed_id), state.stage, differences)
            return SlotOutcome(contribution=pooled)
        difference = as_it_is.mean - changed.mean
        estimate = self._add_scalar(setting.slot, str(state.seed_id), state.stage, difference)
        if is_shadow:
            gain = Estimate(mean=-difference, standard_error=0.0, num_items=1)
            return SlotOutcome(shadow_gain=gain)
        return SlotOutcome(contribution=estimate)

    def _add_scalar(self, slot: str, seed_id: str, stage: SeedStage, difference: float) -> Estimate | None:
        key = f"{seed_id} {stage.value}"
        if self._keys.get(slot) != key:
            self._keys[slot], self._scalars[slot] = key, []
        values = self._scalars[slot]
        values.append(difference)
        if len(values) < MIN_SCALARS:
            return None
        error = statistics.stdev(values) / math.sqrt(len(values))
        return Estimate(
            mean=statistics.fmean(values), standard_error=error, num_items=1, num_intervals=len(values)
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return pooled sums by slot, and plain data."""
        tensors, pool = self._pool.state()
        scalars: dict[str, JsonValue] = {
            slot: [self._keys[slot], *values] for slot, values in self._scalars.items()
        }
        return tensors, {"pool": pool, "scalars": scalars}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""
        pool, scalars = state["pool"], state["scalars"]
        assert isinstance(pool, dict)
        assert isinstance(scalars, dict)
        self._pool.restore(tensors, pool)
        self._keys, self._scalars = {}, {}
        for slot, entry in scalars.items():
            assert isinstance(entry, list)
            self._keys[slot] = str(entry[0])
            self._scalars[slot] = [float(str(value)) for value in entry[1:]]


@contextmanager
def _modes_kept(model: MorphogeneticModel) -> Iterator[None]:
    """Put every module's mode back: an evaluation of somebody else's may leave the model in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
