"""Backends and clocks that do what a test tells them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from esper.nissa import Record


class FailingBackend:
    """Takes records until its supply of patience is used up, then raises; optionally at flush or close."""

    def __init__(self, name: str = "broken", *, good_writes: int = 0, at: Iterable[str] = ("write",)) -> None:
        self.records: list[Record] = []
        self.num_closes = 0
        self._name = name
        self._left = good_writes
        self._at = frozenset(at)

    @property
    def name(self) -> str:
        return self._name

    def write(self, record: Record) -> None:
        if "write" in self._at and self._left == 0:
            raise OSError("no space left")
        self._left -= 1
        self.records.append(record)

    def flush(self, *, durable: bool = False) -> None:
        del durable
        if "flush" in self._at:
            raise OSError("flush failed")

    def close(self) -> None:
        self.num_closes += 1
        if "close" in self._at:
            raise OSError("close failed")


class GatedBackend:
    """Stops in `write` until the gate is opened; tells when a write has begun."""

    def __init__(self, name: str = "slow") -> None:
        self.records: list[Record] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.is_closed = False
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def write(self, record: Record) -> None:
        self.entered.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.records.append(record)

    def flush(self, *, durable: bool = False) -> None:
        del durable

    def close(self) -> None:
        self.is_closed = True


class ManualTimer:
    """A schedule that fires when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, delay_seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        entry = (delay_seconds, call)
        self.waiting.append(entry)

        def cancel() -> None:
            if entry in self.waiting:
                self.waiting.remove(entry)

        return cancel

    def fire(self) -> None:
        """Run everything that waits."""
        waiting, self.waiting = self.waiting, []
        for _, call in waiting:
            call()
