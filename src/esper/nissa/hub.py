"""One sink for a run: numbers events and hands them to every backend. A failing backend never stops training.

```
emit(event) -> Record(seq) -> backend 1 .. n     a backend raises -> off, counted, BackendFailed to the others
```
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import final

from esper.leyline import BackendFailed, Event, UnknownNameError
from esper.nissa.backends.base import OutputBackend, ReportingBackend
from esper.nissa.backends.buffered import BufferedBackend
from esper.nissa.record import Record, wall_clock


@final
class EventHub:
    """Implements `EventSink`: `emit` never raises, whatever a backend does.

    Every event is handed to every backend before `emit` returns; put a slow one behind a `BufferedBackend`.

    Example:
        hub = EventHub([MemoryBackend()], run_id="digits-0")
        hub.emit(Notice(epoch=0, text="hello"))
        hub.close()
    """

    def __init__(
        self,
        backends: Sequence[OutputBackend],
        run_id: str,
        *,
        attempt: int = 0,
        rank: int = 0,
        first_seq: int = 0,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        """Number events from `first_seq` on.

        Args:
            backends: Destinations, with different names; the hub closes them.
            run_id: Name of the run.
            attempt: How often the run was resumed before.
            rank: This process.
            first_seq: First number to give; on resume one more than the last one written.
            clock: Seconds since 1970-01-01 UTC.

        Raises:
            ValueError: If two backends have the same name.
        """
        names = [backend.name for backend in backends]
        if len(set(names)) != len(names):
            raise ValueError(f"EventHub backends need different names, got {names}")
        self._backends: dict[str, OutputBackend] = dict(zip(names, backends, strict=True))
        self._missed: dict[str, int] = dict.fromkeys(names, 0)
        self._failures: dict[str, str] = {}
        self._reporting = [backend for backend in backends if isinstance(backend, ReportingBackend)]
        self._run_id, self._attempt, self._rank = run_id, attempt, rank
        self._next_seq = first_seq
        self._clock = clock
        self._epoch = 0
        self._closed: set[str] = set()
        self._lock = threading.RLock()

    @property
    def next_seq(self) -> int:
        """Number that the next event gets; a checkpoint stores one less as its place in the stream."""
        return self._next_seq

    @property
    def attempt(self) -> int:
        """The attempt that records carry."""
        return self._attempt

    @property
    def failures(self) -> Mapping[str, str]:
        """Backend name -> error, of those that are switched off."""
        return MappingProxyType(self._failures)

    @property
    def losses(self) -> Mapping[str, int]:
        """Backend name -> records that never arrived: dropped under pressure, after it failed or closed."""
        return {
            name: missed + (backend.num_lost if isinstance(backend, BufferedBackend) else 0)
            for (name, missed), backend in zip(self._missed.items(), self._backends.values(), strict=True)
        }

    def is_active(self, name: str) -> bool:
        """Whether a backend still takes records.

        Raises:
            UnknownNameError: If there is no backend of that name.
        """
        if name not in self._backends:
            raise UnknownNameError("telemetry backend", name, self._backends)
        return name not in self._closed and name not in self._failures

    def emit(self, event: Event) -> None:
        """Number one event and hand it to every backend that is on."""
        with self._lock:
            waiting = [event]
            while waiting:  # a failure adds an event and removes a backend, a report is made once: this ends
                waiting += self._deliver(waiting.pop(0))

    def flush(self, *, durable: bool = False) -> None:
        """Flush every backend that is on; a failing one is reported and switched off.

        Args:
            durable: Also survive a power cut; asked for at epoch ends and with every checkpoint.
        """
        with self._lock:
            for name, backend in self._backends.items():
                if self.is_active(name):
                    try:
                        backend.flush(durable=durable)
                    except Exception as error:  # noqa: BLE001 - telemetry never stops training
                        self.emit(self._switch_off(name, error))

    def close(self) -> None:
        """Flush and close every backend, the failed ones too; a second call does nothing."""
        with self._lock:
            if len(self._closed) == len(self._backends):
                return
            self.flush(durable=True)
            for name, backend in self._backends.items():
                self._closed.add(name)
                try:
                    backend.close()
                    if isinstance(backend, ReportingBackend):
                        for report in backend.take_reports():
                            self.emit(report)
                except Exception as error:  # noqa: BLE001 - the other backends must still be closed
                    if name not in self._failures:
                        self.emit(self._switch_off(name, error))

    def _deliver(self, event: Event) -> list[Event]:
        """Hand one event out; return the reports of backends that failed at it or tell of themselves."""
        record = Record(
            run_id=self._run_id,
            attempt=self._attempt,
            rank=self._rank,
            seq=self._next_seq,
            wall_time=self._clock(),
            event=event,
        )
        self._next_seq += 1
        self._epoch = event.epoch
        reports: list[Event] = []
        for name, backend in self._backends.items():
            if not self.is_active(name):
                self._missed[name] += 1
                continue
            try:
                backend.write(record)
            except Exception as error:  # noqa: BLE001 - telemetry never stops training
                self._missed[name] += 1
                reports.append(self._switch_off(name, error))
        for reporting in self._reporting:
            reports += reporting.take_reports()
        return reports

    def _switch_off(self, name: str, error: Exception) -> BackendFailed:
        text = f"{type(error).__name__}: {error}"
        self._failures[name] = text
        if not any(self.is_active(other) for other in self._backends):  # nobody is left to be told
            logging.getLogger(__name__).error("last telemetry backend %s failed: %s", name, text)
        return BackendFailed(epoch=self._epoch, backend=name, error=text)
