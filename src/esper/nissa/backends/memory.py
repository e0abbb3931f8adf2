"""Keeps records in a list: for tests and notebooks."""

from __future__ import annotations

from typing import TypeVar, final

from esper.leyline import Event
from esper.nissa.record import Record

EventT = TypeVar("EventT", bound=Event)


@final
class MemoryBackend:
    """Remembers every record of one process.

    Example:
        backend = MemoryBackend()
        hub = EventHub([backend], run_id="try")
        ...
        losses = [e.validation_loss for e in backend.events_of(EpochCompleted)]
    """

    def __init__(self, name: str = "memory") -> None:
        self.records: list[Record] = []
        self.num_flushes = 0
        self.is_closed = False
        self._name = name

    @property
    def name(self) -> str:
        """The name given at construction."""
        return self._name

    @property
    def events(self) -> tuple[Event, ...]:
        """The events alone, in order."""
        return tuple(record.event for record in self.records)

    def events_of(self, kind: type[EventT]) -> tuple[EventT, ...]:
        """The events of one type, in order."""
        return tuple(event for event in self.events if isinstance(event, kind))

    def write(self, record: Record) -> None:
        """Keep the record."""
        self.records.append(record)

    def flush(self, *, durable: bool = False) -> None:
        """Count the call; there is nowhere to hand records on to."""
        del durable
        self.num_flushes += 1

    def close(self) -> None:
        """Note that the hub is done; the records stay."""
        self.is_closed = True
