"""Events as the calls of a loop return them: the typed event, and the sentence that a person reads."""

from __future__ import annotations

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
    """Tells events in order; remembers which seed is of which blueprint."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._narrator = Narrator()
        self._count = 0

    def begin(self, slots: Sequence[str], *, host_params: int, horizon: int | None) -> None:
        """Learn what sentences about intervals compare with.

        Args:
            slots: Ids.
            host_params: Trainable parameters of the host alone.
            horizon: Intervals that the loop runs; None = not known.
        """
        started = RunStarted(
            epoch=0,
            task="own",
            policy="own",
            seed=0,
            horizon_epochs=horizon or 0,
            host_params=host_params,
            slots=tuple(slots),
        )
        self.tell([started])

    def tell(self, events: Sequence[Event]) -> list[LoopEvent]:
        """Return each event with its sentence."""
        told = []
        for event in events:
            record = Record(run_id="loop", attempt=0, rank=0, seq=self._count, wall_time=0.0, event=event)
            self._count += 1
            line = self._narrator.tell(record)
            told.append(LoopEvent(event=event, text="" if line is None else line.text))
        return told
