"""Why and when a run leaves or pauses at its next boundary: a signal, the end of its time, a wish to save.

```
StopSignal (SIGINT, SIGTERM, SIGHUP, SIGUSR2) --+--> RunStop() -> save, leave with its exit code
TimeLimit (checkpoint.max_hours)              --+
StopSignal (SIGUSR1)                          --+--> RunStop.pauses() -> save, go on
```
Only answers questions; the loop saves and leaves. Imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import final

from esper.leyline import ExitCode, InterruptedRunError
from esper.runtime.shutdown import StopSignal

_SECONDS_PER_HOUR = 3600.0


@final
class TimeLimit:
    """Says when the time of one attempt is over, by a clock that nobody sets."""

    def __init__(self, max_hours: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            max_hours: Hours from now, > 0; None = without end.
            clock: Seconds since any moment; must never go back.
        """
        self.max_hours = max_hours
        self._clock = clock
        self._started_s = clock()

    def __call__(self) -> bool:
        """Whether the time is over."""
        if self.max_hours is None:
            return False
        return self._clock() - self._started_s >= self.max_hours * _SECONDS_PER_HOUR


@final
class RunStop:
    """Every reason to leave behind one question; the first reason that was seen counts.

    Example:
        with StopSignal() as signals:
            stop = RunStop(signals, TimeLimit(config.checkpoint.max_hours))
            while not host_run.is_finished and not stop():
                host_run.train_epoch(stop.pauses)
                if stop.take_save_request():
                    save()
    """

    def __init__(self, signals: StopSignal, limit: TimeLimit) -> None:
        """Join the reasons.

        Args:
            signals: Entered by the caller.
            limit: Of this attempt.
        """
        self._signals = signals
        self._limit = limit
        self._is_time_over = False

    def __call__(self) -> bool:
        """Whether the run is to save and leave; once True it stays so."""
        if not self._is_time_over and not self._signals():
            self._is_time_over = self._limit()
        return self._is_time_over or self._signals()

    def pauses(self) -> bool:
        """Whether the run is to stop at this boundary, to leave or only to save; asked inside an epoch."""
        return self() or self._signals.has_save_request

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        return self._signals.take_save_request()

    @property
    def is_time_over(self) -> bool:
        """Whether it was the time limit that said stop."""
        return self._is_time_over

    @property
    def exit_code(self) -> ExitCode:
        """What the process returns: that of SIGTERM when its time is over, as when a scheduler ends it."""
        return ExitCode.SIGTERM if self._is_time_over else self._signals.exit_code

    @property
    def reason(self) -> str:
        """Why the run stops, as the end of a sentence that begins with "stopped"."""
        if self._is_time_over:
            return f"after {self._limit.max_hours:g} hours (checkpoint.max_hours)"
        return "by a signal"

    def describe(self, saved: str | None, run_dir: Path) -> InterruptedRunError:
        """Return the error that ends the attempt of one process.

        Args:
            saved: Name of the checkpoint of this place; None if it could not be saved.
            run_dir: The run, for the command that goes on with it.
        """
        return describe_stop(self.reason, describe_save(saved), run_dir, self.exit_code)


SAVED_BY_FIRST = "rank 0 saves this place and says whether it could"
"""What a rank that does not write knows of the checkpoint of a stop."""


def describe_save(saved: str | None) -> str:
    """Return what became of the checkpoint of a stop: its name, or None if it could not be saved."""
    return f"saved {saved}" if saved else "this place could NOT be saved, an older one is kept"


def describe_stop(
    reason: str, what: str, run_dir: Path, exit_code: ExitCode, num_ranks: int = 1
) -> InterruptedRunError:
    """Return the error that ends an attempt, with the command that goes on.

    Args:
        reason: The end of a sentence that begins with "stopped".
        what: What became of the checkpoint.
        run_dir: The run.
        exit_code: What the process returns.
        num_ranks: Processes of the run, >= 1.
    """
    start = "esper" if num_ranks == 1 else f"esper launch --nproc-per-node {num_ranks} --"
    return InterruptedRunError(
        f"stopped {reason}; {what}; go on: {start} train --resume {run_dir}", exit_code
    )
