"""Where a drill strikes inside a run: files, events, gradients, boundaries; with no faults these are nothing.

A run asks this object for what it hands to its parts. Each part is an ordinary one of its kind (a hook of
file operations, a backend of events, a probe of gradients), so that no part knows of drills.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from esper.data import Batch
from esper.kasmina import MorphogeneticModel
from esper.leyline import EpochOutcome, EventSink, HostProbe, JsonValue, Notice, NullProbe
from esper.nissa import OutputBackend, Record
from esper.runtime.fault_plan import TENSOR_KINDS, Fault, FaultPlan, cause
from esper.tolaria import HOST
from esper.tolaria.checkpoint import FileOps

if TYPE_CHECKING:
    from torch import nn


@final
class FaultPoints:
    """The points of one run.

    Example:
        points = FaultPoints(FaultPlan.from_environ(os.environ))
        store = CheckpointStore(..., file_ops=points.file_ops)
    """

    def __init__(self, plan: FaultPlan) -> None:
        """Take the faults of this process."""
        self._plan = plan
        self._progress = _Progress()

    def announce(self, sink: EventSink, epoch: int) -> None:
        """Say in the log of a run that it is disturbed on purpose; nothing if it is not.

        Args:
            sink: The run's.
            epoch: Of its first event.
        """
        if not self._plan.is_empty:
            text = f"a drill: faults on order: {self._plan.describe()}"
            sink.emit(Notice(epoch=epoch, text=text, is_about_process=True))

    @property
    def file_ops(self) -> FileOps:
        """File operations of a checkpoint store, each announced first."""
        if self._plan.is_empty:
            return FileOps()
        return FileOps(before=self._before_file)

    @property
    def backends(self) -> tuple[OutputBackend, ...]:
        """What sees every event after it was written; an exception here switches a backend off."""
        return () if self._plan.is_empty else (_EventPoint(self._plan, self._progress),)

    @property
    def probe(self) -> HostProbe[MorphogeneticModel, Batch]:
        """What sees the gradients of a host's batch before they are clipped."""
        return NullProbe() if self._plan.is_empty else _GradientPoint(self._plan, self._progress)

    def ask(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a stop check whose every question is a point: a host's batch, a step of a rollout.

        Args:
            should_stop: The check itself.
        """
        if self._plan.is_empty:
            return should_stop

        def ask() -> bool:
            self._plan.reach("boundary", step=self._progress.step)
            return should_stop()

        return ask

    def reduce(
        self, reduce_gradients: Callable[[Sequence[nn.Parameter]], None]
    ) -> Callable[[Sequence[nn.Parameter]], None]:
        """Return a reduction of a policy's gradients that is a point, once per minibatch.

        Args:
            reduce_gradients: The reduction itself.
        """
        if self._plan.is_empty:
            return reduce_gradients

        def reduce(parameters: Sequence[nn.Parameter]) -> None:
            self._plan.reach("minibatch", step=self._progress.step)
            reduce_gradients(parameters)

        return reduce

    def _before_file(self, operation: str, _path: Path) -> None:
        self._plan.reach("file", operation=operation)


@final
class _Progress:
    """How far the run is, as its events tell."""

    def __init__(self) -> None:
        self.step = 0


@final
class _EventPoint:
    """An event backend that keeps nothing."""

    def __init__(self, plan: FaultPlan, progress: _Progress) -> None:
        self.name = "drill"
        self._plan, self._progress = plan, progress

    def write(self, record: Record) -> None:
        event = record.event
        self._progress.step = event.epoch
        self._plan.reach(
            "event", event=event.kind, step=event.epoch, slot=str(getattr(event, "slot", None) or "")
        )

    def flush(self, *, durable: bool = False) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@final
class _GradientPoint:
    """A probe that, against all manners of probes, changes gradients when a fault says so."""

    def __init__(self, plan: FaultPlan, progress: _Progress) -> None:
        self._plan, self._progress = plan, progress

    def after_backward(self, model: MorphogeneticModel, batch: Batch, batch_index: int) -> None:
        del batch
        owners = {HOST: model.host} | {
            slot.slot_id: slot.seed for slot in model.each_slot() if slot.seed is not None
        }
        for seed, module in owners.items():
            for fault in self._plan.take("gradient", seed=seed, step=self._progress.step, batch=batch_index):
                if fault.kind in TENSOR_KINDS:
                    spoil(fault, module)
                else:
                    cause(fault)

    def after_epoch(self, model: MorphogeneticModel, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Remember nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


def spoil(fault: Fault, module: nn.Module) -> None:
    """Change one number of the first gradient that a module has.

    Args:
        fault: nan puts NaN there, bitflip turns one bit.
        module: Parameters in their order; without any gradient nothing happens.
    """
    gradient = next((p.grad for p in module.parameters() if p.grad is not None and p.grad.numel()), None)
    if gradient is None:
        return
    flat = gradient.view(-1)
    if fault.kind == "nan":
        flat[0] = math.nan
    else:
        flip_bit(flat, fault.bit)


def flip_bit(values: Tensor, bit: int) -> None:
    """Turn one bit of the first number, in place.

    Args:
        values: [N] of any type of 1, 2, 4 or 8 bytes.
        bit: From the lowest, taken modulo the width.
    """
    width = 8 * values.element_size()
    whole = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    bits = values.view(whole)
    place = bit % width
    mask = -(2 ** (width - 1)) if place == width - 1 else 2**place
    bits[0] = bits[0] ^ mask
