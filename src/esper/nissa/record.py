"""An event with its place in a run: what backends write and readers return. Knows no file and no backend."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import final

from esper.leyline import Event, EventClass


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event as the hub hands it on; (run_id, attempt, rank, seq) is unique in a stream.

    Example:
        Record(run_id="digits-0", attempt=0, rank=0, seq=7, wall_time=1.7e9, event=event)
    """

    run_id: str
    """Name of the run; the same in every attempt and on every rank."""
    attempt: int
    """How often the run was resumed before this process (0 = first start)."""
    rank: int
    """Which process of a distributed run."""
    seq: int
    """Place in this rank's stream, >= 0; grows over all attempts and is never reused."""
    wall_time: float
    """Seconds since 1970-01-01 UTC; a display value, outside every equality."""
    event: Event

    @property
    def is_sample(self) -> bool:
        """Whether the event may be dropped under pressure."""
        return self.event.event_class is EventClass.SAMPLE


def wall_clock() -> float:
    """Return seconds since 1970-01-01 UTC.

    Example:
        >>> wall_clock() >= log.records[0].wall_time
        True
    """
    return datetime.now(UTC).timestamp()
