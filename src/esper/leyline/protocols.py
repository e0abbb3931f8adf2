"""Protocols between rooms that do not import each other, with their null objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar, final, runtime_checkable

from esper.leyline.canonical import JsonValue
from esper.leyline.decisions import Decision
from esper.leyline.events import Event
from esper.leyline.observation import Observation
from esper.leyline.outcomes import EpochOutcome

ModelT_contra = TypeVar("ModelT_contra", contravariant=True)
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


@runtime_checkable
class EventSink(Protocol):
    """Where events go; it must never raise and never block training."""

    def emit(self, event: Event) -> None:
        """Take one event."""


@final
class NullSink:
    """Drops every event: the default."""

    def emit(self, event: Event) -> None:
        """Do nothing."""


@runtime_checkable
class TamiyoPolicy(Protocol):
    """Decides from an `Observation`; never sees a model."""

    def decide(self, observation: Observation) -> Decision:
        """Answer one decision point."""

    def reset(self) -> None:
        """Forget everything about the present host; called before its first decision."""

    def state(self) -> dict[str, object]:
        """Return the memory as JSON-able data, so that a resumed run decides as the uninterrupted one."""

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned."""


@runtime_checkable
class HostProbe(Protocol[ModelT_contra, BatchT_contra]):
    """Looks into a host run without changing it: diagnostics see model, gradients and batch through it.

    A probe must not draw from a global random stream and must leave parameters, gradients, buffers and modes
    as they were. What it remembers is saved with the host and goes back with it.
    """

    def after_backward(self, model: ModelT_contra, batch: BatchT_contra, batch_index: int) -> None:
        """Called with this rank's gradients in place, times the loss scale, before clipping and the step."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Called with each chunk of the validation split: the network's outputs and the targets."""

    def after_epoch(self, model: ModelT_contra, outcome: EpochOutcome) -> None:
        """Called once per interval that stands, after measuring."""

    def state(self) -> dict[str, JsonValue]:
        """Return the memory as plain data; it may be empty."""

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned; nothing = begin anew."""


@final
class NullProbe:
    """Looks at nothing: the default."""

    def after_backward(self, model: object, batch: object, batch_index: int) -> None:
        """Do nothing."""

    def after_validation(self, outputs: object, targets: object) -> None:
        """Do nothing."""

    def after_epoch(self, model: object, outcome: EpochOutcome) -> None:
        """Do nothing."""

    def state(self) -> dict[str, JsonValue]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Do nothing."""


@runtime_checkable
class Collective(Protocol):
    """Agreement between ranks over plain numbers (control plane); a single process is an implementation."""

    @property
    def rank(self) -> int:
        """This process, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Number of processes (>= 1)."""

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise sum over ranks."""

    def all_max(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise maximum over ranks."""

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return rank 0's values."""

    def all_agree(self, digest: str) -> bool:
        """Whether every rank passed the same text."""

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's data, in the order of the ranks; lengths may differ."""


@final
class SingleProcess:
    """The collective of one process: returns what it was given."""

    @property
    def rank(self) -> int:
        """Always 0."""
        return 0

    @property
    def world_size(self) -> int:
        """Always 1."""
        return 1

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """Return the values."""
        return list(values)

    def all_max(self, values: Sequence[float]) -> list[float]:
        """Return the values."""
        return list(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the values."""
        return list(values)

    def all_agree(self, digest: str) -> bool:
        """Always True."""
        return True

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the data alone."""
        return [data]
