"""A bounded queue and a thread before a slow backend, so that training does not wait for it.

```
write -> queue (full: oldest sample out, counted) -> thread -> inner backend
```
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import final

from esper.leyline import EventsDropped
from esper.nissa.backends.base import OutputBackend
from esper.nissa.record import Record


@final
class BufferedBackend:
    """Takes records at once and writes them from a thread of its own.

    When the queue is full, the oldest waiting sample is dropped and counted; an EventsDropped record takes
    its place in the stream, with the sequence number of the last record dropped. Lifecycle and run events are
    never dropped: with nothing but those in the queue the caller waits, for at most `patience_seconds`, after
    which the backend counts as failed. A backend that must hold every lifecycle event on return (event files)
    does not belong behind this one.
    """

    def __init__(self, inner: OutputBackend, *, capacity: int = 4096, patience_seconds: float = 60.0) -> None:
        """Start the thread.

        Args:
            inner: Where records really go; used by this object's thread alone.
            capacity: Records that may wait, >= 1.
            patience_seconds: Longest wait for the inner backend in write, flush or close.

        Raises:
            ValueError: If `capacity` is below 1.
        """
        if capacity < 1:
            raise ValueError(f"BufferedBackend capacity={capacity}: must be >= 1")
        self._inner = inner
        self._capacity = capacity
        self._patience = patience_seconds
        self._queue: deque[Record] = deque()
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_closing = False
        self._error: Exception | None = None
        self._last_dropped: Record | None = None
        self._num_unreported = 0
        self.num_dropped = 0
        """Samples dropped so far because the queue was full."""
        self.num_undelivered = 0
        """Records that were taken and never arrived because the inner backend failed or hung."""
        self._thread = threading.Thread(target=self._work, name=f"telemetry-{inner.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The inner backend's name."""
        return self._inner.name

    @property
    def num_lost(self) -> int:
        """Records that were taken and will never arrive."""
        return self.num_dropped + self.num_undelivered

    def write(self, record: Record) -> None:
        """Queue one record.

        Raises:
            TimeoutError: If the queue is full of lifecycle events for longer than the patience.
            RuntimeError: If the backend is closed.
            Exception: What the inner backend raised since the last call.
        """
        with self._changed:
            self._raise_failure()
            if self._is_closing:
                raise RuntimeError(f"backend {self.name!r} is closed")
            if len(self._queue) >= self._capacity and not self._make_room(record):
                return
            self._queue.append(record)
            self._changed.notify_all()

    def flush(self, *, durable: bool = False) -> None:
        """Wait until the queue is empty, then flush the inner backend.

        Raises:
            TimeoutError: If that takes longer than the patience.
            Exception: What the inner backend raised.
        """
        with self._changed:
            self._wait_until_idle()
            self._inner.flush(durable=durable)

    def close(self) -> None:
        """Write what is queued, stop the thread, close the inner backend; a second call does nothing.

        Raises:
            TimeoutError: If the inner backend hangs; what it has not taken counts as undelivered.
            Exception: What the inner backend raised.
        """
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
            try:
                self._wait_until_idle()
            except TimeoutError:
                self.num_undelivered += len(self._queue) + self._is_writing
                self._queue.clear()
                raise
            finally:
                self._num_unreported = 0
                if not self._is_writing:
                    self._inner.close()
        self._thread.join()

    def _make_room(self, record: Record) -> bool:
        """Free one place; False if the new record itself had to go."""
        for index, waiting in enumerate(self._queue):
            if waiting.is_sample:
                del self._queue[index]
                self._count_drop(waiting)
                return True
        if record.is_sample:
            self._count_drop(record)
            return False
        self._wait(lambda: len(self._queue) < self._capacity)
        return True

    def _count_drop(self, record: Record) -> None:
        self.num_dropped += 1
        self._num_unreported += 1
        self._last_dropped = record

    def _is_idle(self) -> bool:
        return not (self._queue or self._is_writing or self._num_unreported)

    def _wait_until_idle(self) -> None:
        self._wait(self._is_idle)

    def _wait(self, is_ready: Callable[[], bool]) -> None:
        is_over = self._changed.wait_for(lambda: self._error is not None or is_ready(), self._patience)
        self._raise_failure()
        if not is_over:
            waited, self._patience = self._patience, 0.0  # it had its chance: later calls do not wait again
            raise TimeoutError(f"backend {self.name!r} took no record for {waited:g} s")

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._num_unreported or self._is_closing)
                record = self._take()
                if record is None:
                    return
                self._is_writing = True
            try:
                self._inner.write(record)
            except Exception as error:  # noqa: BLE001 - carried to the caller, whose next call raises it
                self._stop_after(record, error)
                return
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _take(self) -> Record | None:
        """Next record to write: the note about drops in its place, else the oldest; None at the end."""
        last = self._last_dropped
        if self._num_unreported and last is not None and (not self._queue or self._queue[0].seq > last.seq):
            event = EventsDropped(
                epoch=last.event.epoch, instance=last.event.instance, num_dropped=self._num_unreported
            )
            self._num_unreported = 0
            return replace(last, event=event)
        return self._queue.popleft() if self._queue else None

    def _stop_after(self, record: Record, error: Exception) -> None:
        is_note = isinstance(record.event, EventsDropped)  # ours: nobody handed it in
        with self._changed:
            self.num_undelivered += len(self._queue) + (not is_note)
            self._queue.clear()
            self._num_unreported = 0
            self._is_writing = False
            self._error = error
            self._changed.notify_all()
