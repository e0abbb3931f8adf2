"""What is held of one run that somebody looks at: its records up to a bound, found by kind, host and place.

A record's place is its number in this store, from 0, in the order in which it was read; it never changes.
Over the bound the oldest samples go first, and what went is counted.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import Event, EventClass, EventsDropped, JsonValue, PolicyTrainingStarted, RunStarted
from esper.nissa import Record, tail

MAX_WEIGHT = 200_000
"""Records held of a run; one with large tables counts for several."""
MAX_STEP_BYTES = 2**20
"""Of one file, read in one step; a longer line is passed over."""
REFRESH_SECONDS = 0.4
"""Files are looked at no more often than that."""
_KEPT_FRACTION = 0.9
"""Of the bound, after something had to go: dropping is then rare."""
_VALUES_PER_WEIGHT = 16
_MAX_BAD = 50
_MAX_CACHED = 64


class Held(NamedTuple):
    """A record with its place."""

    n: int
    record: Record


@final
class RunStore:
    """The records of one run directory, as far as they were read."""

    def __init__(self, path: Path, max_weight: int = MAX_WEIGHT) -> None:
        """Hold nothing yet.

        Args:
            path: A run directory.
            max_weight: See `MAX_WEIGHT`.
        """
        self.lock = threading.RLock()
        """Held while records are added or looked at."""
        self.num_dropped = 0
        """Records that were read and are not held any more."""
        self.num_missing = 0
        """Samples that the run itself says are missing from its files."""
        self.num_superseded = 0
        self.num_bad = 0
        self.bad: list[str] = []
        """The first lines that could not be read."""
        self.is_behind = True
        self.next_n = 0
        self.revision = 0
        """Changes with everything that is added or dropped."""
        self._max_weight = max_weight
        self._batches = tail(path, MAX_STEP_BYTES)
        self.weight = 0
        """How much of the bound is taken."""
        self._held: list[Held] = []
        self._by_instance: dict[int, list[Held]] = defaultdict(list)
        self._by_kind: dict[str, list[Held]] = defaultdict(list)
        self._cache: dict[tuple[object, ...], tuple[int, JsonValue]] = {}
        self._looked_at = float("-inf")

    def refresh(self, budget_seconds: float = 1.0) -> None:
        """Read what was added to the files since, for at most about this time.

        Raises:
            OSError: If a file cannot be read.
        """
        with self.lock:
            begun = time.monotonic()
            if not self.is_behind and begun - self._looked_at < REFRESH_SECONDS:
                return
            self.is_behind = True
            while self.is_behind and time.monotonic() - begun < budget_seconds:
                batch = next(self._batches)
                self.num_bad += len(batch.bad_lines)
                self.bad += [f"{bad.file}:{bad.line}: {bad.problem}" for bad in batch.bad_lines]
                del self.bad[_MAX_BAD:]
                self.add(batch.records)
                self.is_behind = batch.is_behind
            self._looked_at = time.monotonic()

    def add(self, records: Sequence[Record]) -> None:
        """Hold further records."""
        if not records:
            return
        self.revision += 1
        for record in records:
            event = record.event
            if isinstance(event, RunStarted | PolicyTrainingStarted) and event.rewinds_to_seq is not None:
                self._supersede(record, event.rewinds_to_seq)
            if isinstance(event, EventsDropped):
                self.num_missing += event.num_dropped
            self._append(Held(self.next_n, record))
            self.next_n += 1
        if self.weight > self._max_weight:
            self._drop()

    def all(self) -> Sequence[Held]:
        """Return everything that is held, by place."""
        return self._held

    def of_instance(self, instance: int) -> Sequence[Held]:
        """Return what is held of one host run, by place."""
        return self._by_instance.get(instance, ())

    def of_kind(self, kind: str) -> Sequence[Held]:
        """Return what is held of one kind of event, by place."""
        return self._by_kind.get(kind, ())

    def instances(self) -> list[int]:
        """Return the host runs of which something is held."""
        return sorted(self._by_instance)

    def kinds(self) -> Mapping[str, int]:
        """Return how many events of each kind are held."""
        return {kind: len(held) for kind, held in sorted(self._by_kind.items()) if held}

    def find(self, n: int) -> Held | None:
        """Return the record at a place; None = it is not held."""
        index = bisect_left(self._held, n, key=_place)
        return self._held[index] if index < len(self._held) and self._held[index].n == n else None

    def after(self, n: int) -> Sequence[Held]:
        """Return what is held behind a place."""
        return self._held[bisect_right(self._held, n, key=_place) :]

    def cached(self, key: tuple[object, ...], build: Callable[[], JsonValue]) -> JsonValue:
        """Return what `build` makes of the records now; built once per change."""
        with self.lock:
            found = self._cache.get(key)
            if found is None or found[0] != self.revision:
                if len(self._cache) >= _MAX_CACHED:
                    self._cache.clear()
                found = (self.revision, build())
                self._cache[key] = found
            return found[1]

    def _append(self, held: Held) -> None:
        self._held.append(held)
        self._by_instance[held.record.event.instance].append(held)
        self._by_kind[held.record.event.kind].append(held)
        self.weight += weigh(held.record.event)

    def _supersede(self, start: Record, last_seq: int) -> None:
        """Leave out what a resumed attempt went back before."""
        kept = [
            held
            for held in self._held
            if held.record.rank != start.rank
            or held.record.attempt >= start.attempt
            or held.record.seq <= last_seq
        ]
        self.num_superseded += len(self._held) - len(kept)
        self._rebuild(kept)

    def _drop(self) -> None:
        excess = self.weight - int(self._max_weight * _KEPT_FRACTION)
        gone: set[int] = set()
        for classes in ((EventClass.SAMPLE,), (EventClass.SAMPLE, EventClass.LIFECYCLE)):
            for held in self._held:
                if excess <= 0:
                    break
                if held.record.event.event_class in classes and held.n not in gone:
                    gone.add(held.n)
                    excess -= weigh(held.record.event)
        self.num_dropped += len(gone)
        self._rebuild([held for held in self._held if held.n not in gone])

    def _rebuild(self, kept: Sequence[Held]) -> None:
        self._held, self.weight = [], 0
        self._by_instance.clear()
        self._by_kind.clear()
        for held in kept:
            self._append(held)


def weigh(event: Event) -> int:
    """Return how much of the bound an event takes: 1, and more where it holds large tables."""
    return 1 + sum(_count(getattr(event, item.name)) for item in fields(event)) // _VALUES_PER_WEIGHT


def _count(value: object) -> int:
    """Return the number of values inside a table."""
    if isinstance(value, Mapping):
        return len(value) + sum(map(_count, value.values()))
    if isinstance(value, tuple):
        return len(value)
    return len(value) // 64 if isinstance(value, str) else 0


def _place(held: Held) -> int:
    return held.n


def events_of(held: Sequence[Held]) -> Iterator[Record]:
    """Yield the records without their places."""
    return (each.record for each in held)
