"""A run as whoever watches it sees it: its files are read as they grow, and a look sums up what was read.

```
RunWatch.read_new -> tail -> records, lines, warnings -> RunWatch.look -> analytics/watching -> WatchView
```
Reads event files only, so that it can come and go at any time; draws nothing.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import final

from esper.leyline import (
    DIAGNOSTIC_KINDS,
    CheckpointSaved,
    DecisionMade,
    Event,
    EventClass,
    GateEvaluated,
    PolicyTrainingStarted,
    RewardGranted,
    RunStarted,
)
from esper.nissa.analytics.watching import WatchView, compute_view
from esper.nissa.line import Line, Tone
from esper.nissa.reader import drop_superseded, tail
from esper.nissa.record import Record
from esper.nissa.wording import Narrator

NUM_EVENTS = 200
"""Events that are remembered as lines, the newest."""
NUM_WARNINGS = 1000
"""Warnings that are remembered, the newest: a sign of trouble may come with every round."""
_NOT_VIEWED = DIAGNOSTIC_KINDS | {
    each.__name__ for each in (GateEvaluated, CheckpointSaved, DecisionMade, RewardGranted)
}
"""Events that are no part of a view, and many: they are told as they come, and not held."""


@final
class RunWatch:
    """Follows the event files of one run; each line is read once.

    Example:
        watch = RunWatch(Path("runs/a"))
        if watch.read_new():
            show(watch.look())
    """

    def __init__(self, path: Path) -> None:
        """Open nothing yet.

        Args:
            path: The run's directory; its event files may appear later.
        """
        self._tail = tail(path)
        self._narrator = Narrator()
        self._records: list[Record] = []
        self._told: deque[tuple[Record, Line]] = deque(maxlen=NUM_EVENTS)
        self._warned: deque[tuple[Record, Line]] = deque(maxlen=NUM_WARNINGS)
        self._num_bad_lines = 0
        self._last_time: float | None = None

    @property
    def num_held(self) -> int:
        """Records in memory: what grows with epochs and rounds, not with decisions and measurements."""
        return len(self._records)

    def read_new(self) -> bool:
        """Read what was added since the last call; return whether there was anything.

        Raises:
            OSError: If a file cannot be read.
        """
        batch = next(self._tail)
        self._num_bad_lines += len(batch.bad_lines)
        for record in batch.records:
            self._take(record)
        if any(_goes_back(record.event) for record in batch.records):
            self._forget_superseded()
        return bool(batch.records or batch.bad_lines)

    def look(self) -> WatchView:
        """Sum up what was read so far."""
        return compute_view(
            self._records,
            told=self._told,
            warned=self._warned,
            last_time=self._last_time,
            num_bad_lines=self._num_bad_lines,
        )

    def _take(self, record: Record) -> None:
        line = self._narrator.tell(record)
        event = record.event
        self._last_time = max(record.wall_time, self._last_time or record.wall_time)
        if event.kind not in _NOT_VIEWED:
            self._records.append(record)
        if line is None or event.event_class is EventClass.SAMPLE:
            return
        self._told.append((record, line))
        if line.tone is Tone.WARNING and not isinstance(event, DecisionMade):  # a refusal is everyday life
            self._warned.append((record, line))

    def _forget_superseded(self) -> None:
        kept = {id(record) for record in drop_superseded(self._records)}
        self._records = [record for record in self._records if id(record) in kept]
        for lines in (self._told, self._warned):
            left = [(record, line) for record, line in lines if id(record) in kept]
            lines.clear()
            lines.extend(left)


def _goes_back(event: Event) -> bool:
    return isinstance(event, RunStarted | PolicyTrainingStarted) and event.rewinds_to_seq is not None
