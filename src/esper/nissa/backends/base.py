"""The shapes of a telemetry destination. Knows records, nothing about who makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from esper.leyline import Event
from esper.nissa.record import Record


@runtime_checkable
class ReportingBackend(Protocol):
    """A backend that may have something to say about itself, which the hub then tells to all."""

    def take_reports(self) -> Sequence[Event]:
        """Return what happened since the last call; never waits."""


@runtime_checkable
class OutputBackend(Protocol):
    """Takes records in the order of their sequence numbers, from one thread at a time.

    A backend raises when it cannot do its work; the hub then reports it, switches it off, and training goes
    on. To add one, write such a class and put it in the hub's list.
    """

    @property
    def name(self) -> str:
        """Short stable name, unique within a hub; appears in BackendFailed."""

    def write(self, record: Record) -> None:
        """Take one record; a lifecycle or run event has left this process's memory when the call returns."""

    def flush(self, *, durable: bool = False) -> None:
        """Hand on everything taken so far.

        Args:
            durable: Also survive a power cut, where the destination can.
        """

    def close(self) -> None:
        """Finish; a second call does nothing."""
