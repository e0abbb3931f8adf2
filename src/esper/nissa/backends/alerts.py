"""Calls a person: runs a user's command when an event asks for one, from a thread of its own.

```
write -> needs a person? -> too soon after the last of its kind? counted -> bounded queue -> thread -> command
```
Training waits for none of this; at the end it is waited for shortly.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from esper.leyline import (
    AlertFailed,
    AnomalyFound,
    BackendFailed,
    CheckpointFailed,
    CheckpointSaved,
    Event,
    PolicyTrainingStarted,
    RolledBack,
    RunFinished,
    RunStarted,
)
from esper.nissa.codec import encode_record
from esper.nissa.record import Record
from esper.nissa.wording import Narrator

STOPPED, DISK = "RunStopped", "DiskNearlyFull"
"""Kinds of alerts that are not named like an event."""
CAPACITY = 64
"""Alerts that may wait; more in a row than anybody reads."""
CLOSE_SECONDS = 10.0
"""Longest wait for commands at the end of a run."""
_WENT_WELL = "horizon"
_FEW_CHECKPOINTS = 4
_FEW_BYTES = 256_000_000
"""A disk is nearly full below this, or below the room of so many checkpoints like the last one."""


class CommandRunner(Protocol):
    """What runs the command: see `AlertCommand`."""

    def run(self, payload: bytes, variables: Mapping[str, str]) -> str:
        """Run it and wait; return why it failed, or nothing."""

    def stop(self) -> None:
        """End what runs, and start nothing any more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should know."""

    kind: str
    """Name of the event, `RunStopped` or `DiskNearlyFull`."""
    text: str
    """One line."""
    record: Record
    """What it is about: the event itself, or the last one before it."""
    num_suppressed: int = 0
    """Alerts like this one since the last that was told."""


@final
class AlertBackend:
    """Runs a command for records that need a person; never raises, never waits but shortly in `close`."""

    def __init__(
        self,
        command: CommandRunner,
        *,
        run_dir: Path | None = None,
        interval_seconds: float = 60.0,
        close_seconds: float = CLOSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """Start the thread.

        Args:
            command: Runs the user's command.
            run_dir: The run's directory, whose disk is watched.
            interval_seconds: Shortest time between two alerts of a kind; those between are counted.
            close_seconds: Longest wait in `close`; what is not done then has failed.
            clock: Seconds that never go back.
            free_bytes: Room left where a path lies.
        """
        self._command = command
        self._run_dir = run_dir
        self._interval = interval_seconds
        self._close_seconds = close_seconds
        self._clock = clock
        self._free_bytes = free_bytes
        self._narrator = Narrator()
        self._queue: deque[Alert] = deque()
        self._saved: Record | None = None
        self._unfinished: Record | None = None
        self._last_told: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()
        self._report: AlertFailed | None = None
        self._is_closing = False
        self.num_failures = 0
        """Alerts for which the command failed, or never ran."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """Always "alerts"."""
        return "alerts"

    def write(self, record: Record) -> None:
        """Look at one record and queue an alert if it needs a person."""
        event = record.event
        with self._changed:
            if isinstance(event, RunStarted | PolicyTrainingStarted):
                self._narrator.tell(record)
            if isinstance(event, CheckpointSaved):
                self._saved = record
                self._changed.notify_all()
            self._unfinished = None if isinstance(event, RunFinished) else record
            kind = find_alert(event)
            if kind is not None:
                line = self._narrator.tell(record)
                self._offer(Alert(kind=kind, text=event.kind if line is None else line.text, record=record))

    def flush(self, *, durable: bool = False) -> None:
        """Do nothing: alerts are on their way already."""
        del durable

    def take_reports(self) -> tuple[Event, ...]:
        """Return the failures since the last call, as one event."""
        with self._changed:
            report, self._report = self._report, None
        return () if report is None else (report,)

    def close(self) -> None:
        """Tell of a run without an end, wait shortly for what is queued, end the rest; repeated: nothing."""
        with self._changed:
            if self._is_closing:
                return
            last = self._unfinished
            if last is not None:
                self._offer(Alert(kind=STOPPED, text="the run ended without a result", record=last))
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(self._close_seconds)
        self._command.stop()
        self._thread.join(self._close_seconds)

    def _offer(self, alert: Alert) -> None:
        """Queue an alert, unless one like it was queued just now."""
        event = alert.record.event
        key = f"{alert.kind} {event.name}" if isinstance(event, AnomalyFound) else alert.kind
        now = self._clock()
        if now - self._last_told.get(key, -float("inf")) < self._interval:
            self._suppressed[key] += 1
            return
        self._last_told[key] = now
        if len(self._queue) >= CAPACITY:
            self._count_failure(self._queue.popleft(), f"more than {CAPACITY} alerts were waiting")
        self._queue.append(
            Alert(
                kind=alert.kind,
                text=alert.text,
                record=alert.record,
                num_suppressed=self._suppressed.pop(key, 0),
            )
        )
        self._changed.notify_all()

    def _count_failure(self, alert: Alert, error: str) -> None:
        self.num_failures += 1
        self._report = AlertFailed(
            epoch=alert.record.event.epoch, alert=alert.kind, error=error, num_failures=self.num_failures
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._saved or self._is_closing)
                saved, self._saved = self._saved, None
                alert = self._queue.popleft() if self._queue else None
                if alert is None and saved is None:
                    return
            if saved is not None:
                self._look_at_disk(saved)
            if alert is not None:
                self._tell(alert)

    def _tell(self, alert: Alert) -> None:
        run_dir = "" if self._run_dir is None else str(self._run_dir.absolute())
        facts = {
            "alert": alert.kind,
            "text": alert.text,
            "run_dir": run_dir,
            "num_suppressed": alert.num_suppressed,
            "record": json.loads(encode_record(alert.record)),
        }
        variables = {
            "ESPER_ALERT_KIND": alert.kind,
            "ESPER_ALERT_TEXT": alert.text,
            "ESPER_ALERT_EPOCH": str(alert.record.event.epoch),
            "ESPER_RUN_DIR": run_dir,
            "ESPER_RUN_ID": alert.record.run_id,
        }
        error = self._command.run(json.dumps(facts, allow_nan=False).encode() + b"\n", variables)
        if error:
            with self._changed:
                self._count_failure(alert, error)

    def _look_at_disk(self, saved: Record) -> None:
        event = saved.event
        if self._run_dir is None or not isinstance(event, CheckpointSaved):
            return
        try:
            free = self._free_bytes(self._run_dir)
        except OSError:
            return
        if free < max(_FEW_BYTES, _FEW_CHECKPOINTS * event.num_bytes):
            left, taken = free / 1e6, event.num_bytes / 1e6
            text = f"{left:,.0f} MB are left for {self._run_dir}; a checkpoint takes {taken:,.1f} MB"
            with self._changed:
                self._offer(Alert(kind=DISK, text=text, record=saved))


def find_alert(event: Event) -> str | None:
    """Return the kind of alert that an event asks for, or None."""
    if isinstance(event, AnomalyFound | RolledBack | CheckpointFailed | BackendFailed):
        return event.kind
    if isinstance(event, RunFinished) and event.reason != _WENT_WELL:
        return STOPPED
    return None
