"""One run of an arm that widens its hidden layers: data order, optimiser, schedule are those of every arm.

for each epoch:  1) grow   what the plan has for it; the optimiser is built anew, with or without its momentum
                 2) train  batch by batch        3) validate, and note the bill
"""

from __future__ import annotations

import importlib
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from study_queue import FIRST_TUNING_SEED, Row
from torch import Tensor
from torch.nn import functional as F

from esper.data import ArraySplit, SharedBatchIterator
from esper.kasmina import build_seeded
from esper.leyline import ConfigError, JsonValue, derive_seed
from esper.tolaria import OwnRng, TopologyOptimizer
from growth.bill import (
    SEARCH_ROWS,
    Growth,
    Shape,
    count_algebra_flops,
    count_search_flops,
    count_statistics_flops,
    plan_growths,
)
from growth.network import PlainMLP
from growth.record import Point, Trace, require_finite
from growth.tasks import BenchTask

if TYPE_CHECKING:
    from growth.width import GrowthResult, WideningMLP

_CPU = torch.device("cpu")
_PASS_ROWS = 1_000
"""Per pass."""


def require_library() -> None:
    """Refuse to begin where the library of these arms cannot be used: that is no failure of a run.

    Raises:
        ConfigError: Naming what is missing.
    """
    try:
        importlib.import_module("growth.width")
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"arms that widen need gromo, which cannot be imported here ({type(error).__name__}: {error}): "
            "install the extra `peers`, or leave these arms out with --arms"
        ) from error


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WidthRun:
    """What is run."""

    task: BenchTask
    is_tiny: bool
    is_momentum_kept: bool
    learning_rate: float
    seed: int
    epochs: int

    def run(self) -> Row:
        """Train to the horizon and return what a row says about it.

        Raises:
            BrokenRunError: If the loss is not finite.
        """
        life = _Life(self)
        with life.rng.installed():
            for epoch in range(self.epochs):
                is_changed = life.grow(epoch)
                life.train(epoch)
                life.validate(epoch, is_changed=is_changed)
            return life.report(is_published=self.seed < FIRST_TUNING_SEED)


class _Life:
    """A network and everything that trains it."""

    def __init__(self, run: WidthRun) -> None:
        from growth.width import WideningMLP  # noqa: PLC0415 - gromo is optional, only these arms need it

        task = run.task
        self.run, self.task = run, task
        start = build_seeded(
            lambda: PlainMLP(task.num_inputs, task.small, task.spec.num_outputs),
            derive_seed(run.seed, "host", 0),  # the stream of a host run's: all small networks start alike
        )
        self.model: WideningMLP = WideningMLP(start)
        self.batches = SharedBatchIterator(
            task.data.train,
            [derive_seed(run.seed, "data", 0)],
            task.settings.batch_size,
            device=_CPU,
            mean=task.data.mean,
            std=task.data.std,
            cache=task.cache,
        )
        self.rng = OwnRng(derive_seed(run.seed, "torch", 0), _CPU)
        self.plan = plan_growths(task.small, task.big, run.epochs)
        self.flops = {"train": 0, "statistics": 0, "linear_algebra": 0, "line_search": 0}
        self.growths: list[JsonValue] = []
        self.num_rejected = 0
        self.optimizer = self._build_optimizer()
        self.trace = Trace(peak_params=self._count_params())

    # ------------------------------------------------------------------ 1) grow

    def grow(self, epoch: int) -> bool:
        """Carry out what is planned before an epoch; return whether the network has changed."""
        due = [growth for growth in self.plan if growth.epoch == epoch]
        changes = [self._grow_once(growth) for growth in due]  # every one of them, whatever the first brings
        return any(changes)

    def _grow_once(self, growth: Growth) -> bool:
        shape = self.model.shape
        num_units = growth.target - shape.hidden[growth.layer - 1]
        if num_units <= 0:
            return False
        loss_before, _ = self._evaluate(self.task.data.validation)
        started = time.monotonic()
        moments = self.optimizer.state()[0]
        result = self._widen(shape, growth, num_units)
        self.trace.growth_seconds += time.monotonic() - started
        facts: list[JsonValue] = [growth.epoch, growth.layer, num_units, result.num_units, result.factor]
        self.growths.append(facts)
        self.num_rejected += result.num_units == 0
        if result.num_units == 0:
            return False
        self.optimizer = self._build_optimizer()
        if self.run.is_momentum_kept:
            self._put_back(moments)
        self.trace.note_jump(loss_before, self._evaluate(self.task.data.validation)[0])
        self.trace.peak_params = max(self.trace.peak_params, self._count_params())
        return True

    def _widen(self, shape: Shape, growth: Growth, num_units: int) -> GrowthResult:
        if not self.run.is_tiny:
            return self.model.grow_random(growth.layer, num_units)
        num_rows = self.task.statistics_rows
        inputs, targets = self._take_rows(growth.epoch, num_rows + SEARCH_ROWS)
        held_out = [(inputs[num_rows:], targets[num_rows:])]
        starts = range(0, num_rows, _PASS_ROWS)
        ends = [min(start + _PASS_ROWS, num_rows) for start in starts]
        batches = [(inputs[low:high], targets[low:high]) for low, high in zip(starts, ends, strict=True)]
        result = self.model.grow_tiny(growth.layer, num_units, batches, held_out)
        self.flops["statistics"] += count_statistics_flops(shape, growth.layer, num_rows)
        self.flops["linear_algebra"] += count_algebra_flops(shape, growth.layer)
        self.flops["line_search"] += count_search_flops(shape, growth.layer, result.num_proposed)
        return result

    def _take_rows(self, epoch: int, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the first rows of the epoch that is about to begin."""
        taken = []
        for index in range(math.ceil(num_rows / self.task.settings.batch_size)):
            taken.append(self.batches.row(epoch, index, 0))
        inputs = torch.cat([batch.inputs for batch in taken])[:num_rows]
        return inputs, torch.cat([batch.targets for batch in taken])[:num_rows]

    def _build_optimizer(self) -> TopologyOptimizer:
        config = replace(self.task.settings.optimizer, learning_rate=self.run.learning_rate)
        return TopologyOptimizer(
            config,
            self.model.named_weights(),
            total_batches=self.run.epochs * self.batches.num_batches,
            newborn_warmup_batches=0,
        )

    def _put_back(self, moments: dict[str, Tensor]) -> None:
        """Give the new optimiser the old one's momentum; new weights begin with none."""
        weights = self.model.named_weights()
        padded = {
            key: pad_to(tensor, weights[key.rpartition("/")[0]].shape) for key, tensor in moments.items()
        }
        _, state = self.optimizer.state()
        named = list(dict.fromkeys(key.rpartition("/")[0] for key in padded))
        self.optimizer.load(padded, state | {"with_state": named})

    # ------------------------------------------------------------------ 2) train, 3) validate

    def train(self, epoch: int) -> None:
        """Train one epoch; a batch whose gradient is not finite is skipped, as in a host run."""
        self.model.train()
        for index in range(self.batches.num_batches):
            batch = self.batches.row(epoch, index, 0)
            self.optimizer.set_batch(epoch * self.batches.num_batches + index)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(batch.inputs), batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.check_and_clip()
            self.optimizer.step()
        self.flops["train"] += 3 * self.model.shape.forward_flops * self.batches.num_items

    def validate(self, epoch: int, *, is_changed: bool) -> None:
        loss, metric = self._evaluate(self.task.data.validation)
        require_finite(loss, epoch + 1)
        point = Point(flops=sum(self.flops.values()), metric=metric, loss=loss, is_changed=is_changed)
        self.trace.points.append(point)

    def report(self, *, is_published: bool) -> Row:
        loss, accuracy = self._evaluate(self.task.data.validation)
        test_loss, test_accuracy = self._evaluate(self.task.data.test) if is_published else (None, None)
        by_kind: dict[str, JsonValue] = dict(self.flops)
        return {
            "test_accuracy": test_accuracy,
            "test_loss": test_loss,
            "validation_accuracy": accuracy,
            "validation_loss": loss,
            "flops": by_kind,
            "flops_total": sum(self.flops.values()),
            "params_final": self._count_params(),
            "widths": list(self.model.shape.hidden),
            "growths": self.growths,
            "fossils": [],
            "num_grown": len(self.growths),
            "num_refused": self.num_rejected,
            "num_kept": len(self.growths) - self.num_rejected,
        } | self.trace.describe()

    def _count_params(self) -> int:
        return sum(parameter.numel() for parameter in self.model.named_weights().values())

    @torch.no_grad()
    def _evaluate(self, split: ArraySplit) -> tuple[float, float]:
        """Return mean loss and accuracy of a whole split."""
        data = self.task.data
        storage = self.task.cache.storage(split, device=_CPU, mean=data.mean, std=data.std)
        self.model.eval()
        total, right = 0.0, 0
        for start in range(0, split.num_items, _PASS_ROWS):
            rows = slice(start, start + _PASS_ROWS)
            outputs, targets = (
                self.model(storage.normalise(storage.inputs[rows].clone())),
                storage.targets[rows],
            )
            total += float(F.cross_entropy(outputs, targets, reduction="sum"))
            right += int((outputs.argmax(dim=1) == targets).sum())
        self.model.train()
        return total / split.num_items, right / split.num_items


def pad_to(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return a tensor of a shape, old values in its first rows and columns, 0 in the rest."""
    padded = torch.zeros(shape, dtype=tensor.dtype)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
