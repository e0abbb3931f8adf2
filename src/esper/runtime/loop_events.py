"""Events as the calls of a loop return them: the typed event, and the sentence that a person reads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from esper.leyline import Event, RunStarted
from esper.nissa import Narrator, Record

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoopEvent:
    """One thing that happened.

    Example:
        for event in controller.act():
            print(event)
    """

    event: Event
    """What happened, typed: see `esper.leyline`."""
    text: str
    """One sentence; empty for events that are of interest to programs alone."""

    @property
    def kind(self) -> str:
        """Name of the kind of event, such as "seed_germinated"."""
        return self.event.kind

    def __str__(self) -> str:
        """Return the sentence, or the kind of event where there is none."""
        return self.text or self.kind


@final
class LoopNarrator:
    """Tells events in order; remembers which seed is of which blueprint, and how large the host is."""

    def __init__(self, *, host_params: int = 0, slots: Sequence[str] = ()) -> None:
        """Start with nothing told.

        Args:
            host_params: Trainable parameters of the host before it grew; 0 = not known.
            slots: Ids of its slots.
        """
        self._host_params, self._slots = host_params, tuple(slots)
        self._narrator, self._count = Narrator(), 0
        self.begin(horizon=None)

    def begin(self, *, horizon: int | None) -> None:
        """Go on with a loop around the model; what was told before is remembered.

        Args:
            horizon: Intervals that it runs; None = not known.
        """
        start = RunStarted(
            epoch=0,
            task="loop",
            policy="",
            seed=0,
            horizon_epochs=horizon or 0,
            host_params=self._host_params,
            slots=self._slots,
        )
        self._narrator.tell(self._record(start))

    def tell(self, events: Sequence[Event]) -> list[LoopEvent]:
        """Return each event with its sentence."""
        told = []
        for event in events:
            line = self._narrator.tell(self._record(event))
            told.append(LoopEvent(event=event, text="" if line is None else line.text))
        return told

    def _record(self, event: Event) -> Record:
        # Only differences of times are told, so a clock that nobody sets is the better one.
        now = time.monotonic()
        record = Record(run_id="loop", attempt=0, rank=0, seq=self._count, wall_time=now, event=event)
        self._count += 1
        return record
