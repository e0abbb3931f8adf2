"""What a seed is worth: the same items with and without it, paired, on statistics of each network.

```
calibrate   for each setting: one pass over training items with norms in batch mode -> its statistics
evaluate    per chunk of validation items: the network as it is, then only the tail per changed slot
pair        per item: metric(as it is) - metric(changed);  mean, standard error over items
```
In a host with batch norm the running statistics belong to the network with every seed on: switching a seed
off under them measures the normalisation, not the seed (a worthless constant offset then seems worth a third
of the accuracy). So every setting, "as it is" included, gets statistics re-estimated under that setting, and
the buffers are put back afterwards. A host without such norms is spared the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.kasmina import ForwardPlan, MorphogeneticModel, NormWithStatistics, norms_with_statistics
from esper.leyline import ConfigError, Estimate, JsonValue, SeedStage
from esper.tolaria.norm_statistics import (
    Statistics,
    batch_statistics,
    read_statistics,
    write_statistics,
)
from esper.tolaria.objectives import Objective
from esper.tolaria.precision import Autocast


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringConfig:
    """How often and on how much seeds are measured."""

    counterfactual_every: int = 1
    """Intervals between measurements, >= 1; 1 because gates and rewards need fresh numbers."""
    contribution_items: int = 2000
    """Validation items per counterfactual, >= 2: the first ones of the split. 2,000 give an accuracy
    difference a standard error of about half a point at a tenth of the training FLOPs."""
    calibration_items: int = 512
    """Training items from which normalisation statistics are re-estimated per setting, >= 2."""
    chunk_items: int = 1000
    """Items per evaluation pass, >= 1; bounds memory, and changes no number but in the last digits."""
    score_every: int = 0
    """Intervals between scores of every slot and blueprint, >= 0; 0 = never, because only a policy that reads
    scores should pay for them; hosts of the greedy policy are then scored every fifth interval."""
    score_items: int = 512
    """Training items of the probe batch, and validation items for scores of live seeds, >= 4."""
    score_width: int = 128
    """Most features of a blueprint that a score uses, >= 1; more are mixed at random into this many, which
    bounds the cost of each."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a count is too small.
        """
        low = {"counterfactual_every": 1, "contribution_items": 2, "calibration_items": 2, "chunk_items": 1}
        low |= {"score_every": 0, "score_items": 4, "score_width": 1}
        for name, bound in low.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"measuring.{name}={getattr(self, name)}: must be >= {bound}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One counterfactual: the network with one slot's alpha forced."""

    slot: str
    alpha: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """A whole split in eval mode."""

    loss: float
    """Mean per item."""
    metric: float
    """Mean per item, higher is better."""
    num_items: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringBill:
    """Forward FLOPs that one measurement spent."""

    calibration: int
    counterfactual: int


@final
class Evaluator:
    """Runs a model over tensors in eval mode: plain metrics, and paired counterfactuals."""

    def __init__(
        self, objective: Objective, config: MeasuringConfig, *, gates_use_loss: bool, autocast: Autocast
    ) -> None:
        """Bind what a metric is and how much of a split is used."""
        self._objective = objective
        self._config = config
        self._gates_use_loss = gates_use_loss
        self._autocast = autocast

    def evaluate(
        self,
        model: MorphogeneticModel,
        inputs: Tensor,
        targets: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> SplitResult:
        """Return mean loss and metric over a split, every item once, with the model's own statistics.

        Args:
            model: In any mode; put back to it afterwards.
            inputs: [N, ...].
            targets: [N, ...].
            watch: Shown outputs and targets of every chunk; None = nobody looks.
        """
        loss = metric = 0.0
        with eval_mode(model), torch.no_grad():
            for chunk_inputs, chunk_targets in _chunks(inputs, targets, self._config.chunk_items):
                with self._autocast.context():
                    outputs = model(chunk_inputs)
                losses, metrics = self._objective.per_item(outputs, chunk_targets)
                if watch is not None:
                    watch(outputs, chunk_targets)
                loss += float(losses.sum(dtype=torch.float64))
                metric += float(metrics.sum(dtype=torch.float64))
        count = len(targets)
        return SplitResult(loss=loss / count, metric=metric / count, num_items=count)

    def compute_loss(self, model: MorphogeneticModel, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a few items, 0-dim, eager and in eval mode; with a graph if one is kept.

        Args:
            model: In any mode; put back to it afterwards.
            inputs: [N, ...], one chunk.
            targets: [N, ...].
        """
        with eval_mode(model), self._autocast.context():
            outputs: Tensor = model.host(inputs)
        return self._objective.loss(outputs, targets)

    def compute_differences(
        self,
        model: MorphogeneticModel,
        settings: Sequence[Setting],
        calibration: Tensor,
        items: tuple[Tensor, Tensor],
    ) -> tuple[list[Tensor], MeasuringBill]:
        """Return per setting and item: gate metric as it is minus gate metric under the setting.

        Args:
            model: In any mode; its mode, buffers and random stream are as before afterwards.
            settings: Any number per slot.
            calibration: Training inputs [M, ...] for the statistics of each setting.
            items: Validation inputs [N, ...] and targets.

        Returns:
            A list of float32 [N] tensors in the order of `settings`, and the bill in FLOPs.
        """
        norms = norms_with_statistics(model)
        saved = read_statistics(norms)
        try:
            with eval_mode(model), torch.no_grad(), self._autocast.context():
                statistics = self._calibrate(model, norms, settings, calibration) if norms else {}
                differences = self._pair(model, norms, settings, statistics, items)
        finally:
            write_statistics(norms, saved)
            model.forget_records()
        return differences, self.compute_bill(
            model, settings, len(calibration) if norms else 0, len(items[1])
        )

    def measure_items(
        self,
        model: MorphogeneticModel,
        alphas: Mapping[str, float],
        calibration: Tensor,
        items: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the gate metric of every item with any alphas forced, on statistics of that network.

        Args:
            model: In any mode; its mode, buffers and random stream are as before afterwards.
            alphas: Slot -> alpha; 0 leaves the seed out. Other slots stay as they are.
            calibration: Training inputs [M, ...]; not used where no norm keeps statistics.
            items: Validation inputs [N, ...] and targets.

        Returns:
            A float32 [N] tensor, higher is better.
        """
        norms = norms_with_statistics(model)
        saved, plan = read_statistics(norms), ForwardPlan(overrides=alphas)
        try:
            with eval_mode(model), torch.no_grad(), self._autocast.context(), model.planned(plan):
                if norms:
                    with batch_statistics(norms):
                        model.host(calibration)
                parts = [
                    self._gate_metric(model.host(inputs), targets)
                    for inputs, targets in _chunks(*items, self._config.chunk_items)
                ]
        finally:
            write_statistics(norms, saved)
            model.forget_records()
        return torch.cat(parts)

    def refresh_statistics(self, model: MorphogeneticModel, calibration: Tensor) -> None:
        """Re-estimate every norm's running statistics for the network as it is now.

        Args:
            model: In any mode; put back to it afterwards.
            calibration: Training inputs [M, ...].
        """
        norms = norms_with_statistics(model)
        if not norms:
            return
        with eval_mode(model), torch.no_grad(), self._autocast.context(), batch_statistics(norms):
            model.host(calibration)

    def _calibrate(
        self,
        model: MorphogeneticModel,
        norms: Sequence[NormWithStatistics],
        settings: Sequence[Setting],
        calibration: Tensor,
    ) -> dict[Setting | None, Statistics]:
        statistics: dict[Setting | None, Statistics] = {}
        with batch_statistics(norms):
            captured = _run_capturing(model, calibration, settings)[1]
            statistics[None] = read_statistics(norms)
            for setting in settings:
                _run_changed(model, setting, captured.get(setting.slot), calibration)
                statistics[setting] = read_statistics(norms)
                write_statistics(norms, statistics[None])
        return statistics

    def _pair(
        self,
        model: MorphogeneticModel,
        norms: Sequence[NormWithStatistics],
        settings: Sequence[Setting],
        statistics: Mapping[Setting | None, Statistics],
        items: tuple[Tensor, Tensor],
    ) -> list[Tensor]:
        parts: list[list[Tensor]] = [[] for _ in settings]
        for inputs, targets in _chunks(*items, self._config.chunk_items):
            write_statistics(norms, statistics.get(None, []))
            outputs, captured = _run_capturing(model, inputs, settings)
            as_it_is = self._gate_metric(outputs, targets)
            for index, setting in enumerate(settings):
                write_statistics(norms, statistics.get(setting, []))
                changed = _run_changed(model, setting, captured.get(setting.slot), inputs)
                parts[index].append(as_it_is - self._gate_metric(changed, targets))
        return [torch.cat(part) for part in parts]

    def _gate_metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses, metrics = self._objective.per_item(outputs, targets)
        return -losses if self._gates_use_loss else metrics

    def compute_bill(
        self, model: MorphogeneticModel, settings: Sequence[Setting], num_calibration: int, num_items: int
    ) -> MeasuringBill:
        """Return what it costs to measure settings on so many items each.

        Args:
            model: The network as it is.
            settings: Measured beside it.
            num_calibration: Training items; 0 where no norm keeps statistics.
            num_items: Validation items.
        """
        full = model.host_flops + model.added_flops
        per_item = full
        for setting in settings:
            per_item += model.tail_flops(setting.slot)
            if setting.alpha > 0.0:
                per_item += model.slot(setting.slot).state.flops_per_item
        return MeasuringBill(calibration=per_item * num_calibration, counterfactual=per_item * num_items)


@final
class ContributionPool:
    """Pools one seed's per-item differences over the intervals of a stage.

    The same validation items return every interval, so their differences are correlated: they are averaged
    per item first, and the standard error is taken over items.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, slot: str, seed_id: str, stage: SeedStage, differences: Tensor) -> Estimate:
        """Add one interval's [N] differences; return the pooled estimate. A new seed or stage starts over."""
        key = (seed_id, stage.value)
        if self._keys.get(slot) != key:
            self._keys[slot] = key
            self._sums[slot] = torch.zeros_like(differences, dtype=torch.float64)
            self._counts[slot] = 0
        self._sums[slot] += differences.double()
        self._counts[slot] += 1
        return estimate_mean(self._sums[slot] / self._counts[slot], num_intervals=self._counts[slot])

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return sums by slot, and keys and counts."""
        record: dict[str, JsonValue] = {slot: [*self._keys[slot], self._counts[slot]] for slot in self._keys}
        return dict(self._sums), record

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned."""
        self._sums = {slot: tensor.clone() for slot, tensor in tensors.items()}
        self._keys, self._counts = {}, {}
        for slot, entry in record.items():
            assert isinstance(entry, list)
            seed_id, stage, count = entry
            self._keys[slot], self._counts[slot] = (str(seed_id), str(stage)), int(str(count))


def estimate_mean(differences: Tensor, *, num_intervals: int = 1) -> Estimate:
    """Return the mean of paired differences [N] with its standard error std / sqrt(N); N >= 2.

    Example:
        >>> estimate = estimate_mean(torch.tensor([1.0, 2.0, 3.0]))
        >>> estimate.mean, round(estimate.standard_error, 3)
        (2.0, 0.577)
    """
    count = len(differences)
    values = differences.double()
    error = float(values.std(unbiased=True)) / count**0.5
    return Estimate(
        mean=float(values.mean()), standard_error=error, num_items=count, num_intervals=num_intervals
    )


@contextmanager
def eval_mode(model: MorphogeneticModel) -> Iterator[None]:
    """Eval mode for the whole model; every module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _run_capturing(
    model: MorphogeneticModel, inputs: Tensor, settings: Sequence[Setting]
) -> tuple[Tensor, dict[str, Tensor]]:
    slots = frozenset(setting.slot for setting in settings) if model.has_segments else frozenset()
    with model.planned(ForwardPlan(captures=slots)):
        outputs: Tensor = model.host(inputs)
    captured = {}
    for slot_id in slots:
        slot = model.slot(slot_id)
        assert slot.captured is not None
        captured[slot_id] = slot.captured
        slot.captured = None
    return outputs, captured


def _run_changed(
    model: MorphogeneticModel, setting: Setting, captured: Tensor | None, inputs: Tensor
) -> Tensor:
    with model.planned(ForwardPlan(overrides={setting.slot: setting.alpha})):
        if captured is None:
            outputs: Tensor = model.host(inputs)
            return outputs
        features = model.slot(setting.slot).pass_through(captured)
        return model.run_tail(setting.slot, features, inputs)


def _chunks(inputs: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(targets), size):
        yield inputs[start : start + size], targets[start : start + size]
