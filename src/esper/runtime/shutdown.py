"""Signals as a flag: the loop asks at its own boundaries, saves, and leaves with the right exit code.

```
SIGINT, SIGTERM, SIGHUP, SIGUSR2 -> handler: set the flag, nothing else -> the loop sees `requested` after
                                    its batch, saves and leaves
                                 -> pipe -> watcher thread: report once; a second SIGINT ends the process
SIGUSR1                          -> handler: set the other flag -> the loop saves after its batch and goes on
```
The watcher reads the pipe that the interpreter's own C handler writes, so it works while the main thread is
blocked outside Python. Knows nothing of runs and checkpoints.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType, TracebackType
from typing import Self, final

from esper.leyline import ExitCode

_EXIT_CODES: Mapping[int, ExitCode] = MappingProxyType(
    {
        signal.SIGINT: ExitCode.SIGINT,
        signal.SIGTERM: ExitCode.SIGTERM,
        signal.SIGHUP: ExitCode.SIGTERM,
        signal.SIGUSR2: ExitCode.SIGTERM,
    }
)
"""A lost terminal, and what a scheduler may send before its end, ask for the same as a termination: save and
leave, resumable."""

_SAVE_SIGNAL = signal.SIGUSR1

_END = b"\0"
"""No signal has number 0, so this byte ends the watcher."""


def exit_code_of(signal_number: int) -> ExitCode:
    """Return what the process returns after this signal; OK for 0 (none).

    Raises:
        KeyError: If it is a signal that `StopSignal` does not watch.
    """
    return ExitCode.OK if signal_number == 0 else _EXIT_CODES[signal_number]


def _stay_silent(_signal_number: int) -> None:
    """Report nothing."""


@final
class StopSignal:
    """While entered, stop signals set a flag; the handlers found before are put back afterwards.

    SIGUSR1 sets another one, which asks for a checkpoint and for no end. A signal that was ignored before
    (SIGHUP under nohup) stays ignored. Main thread only. A child made by a bare fork meanwhile shares the
    pipe and must call `signal.set_wakeup_fd(-1)` first; spawned ones need not.

    Example:
        with StopSignal() as stop:
            while not host_run.is_finished and not stop():
                host_run.train_epoch(stop)
        return stop.exit_code
    """

    def __init__(self, on_first: Callable[[int], None] = _stay_silent) -> None:
        """Prepare; nothing is installed yet.

        Args:
            on_first: Called once with the number of the first signal, in the watcher thread.
        """
        self._on_first = on_first
        self._requested = 0
        self._has_save_request = False
        self._previous: dict[int, object] = {}
        self._previous_wakeup = -1
        self._pipe = (-1, -1)
        self._watcher = threading.Thread(target=self._watch, name="stop-signal", daemon=True)

    @property
    def requested(self) -> int:
        """Number of the first stop signal received; 0 = none."""
        return self._requested

    @property
    def exit_code(self) -> ExitCode:
        """What the process returns after this signal; OK while none was received."""
        return exit_code_of(self._requested)

    @property
    def has_save_request(self) -> bool:
        """Whether a checkpoint was asked for that nobody took up yet."""
        return self._has_save_request

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was asked for since the last call; many requests are one."""
        # Cleared before the caller saves: a request that comes meanwhile asks for another checkpoint.
        has_request, self._has_save_request = self._has_save_request, False
        return has_request

    def __call__(self) -> bool:
        """Whether a stop was asked for; fits where a loop wants a stop check."""
        return self._requested != 0

    def __enter__(self) -> Self:
        """Install handlers and watcher.

        Raises:
            RuntimeError: If this is not the main thread, or it was entered before.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("StopSignal works in the main thread only: Python delivers signals there")
        if self._watcher.ident is not None:
            raise RuntimeError("a StopSignal is used once; make a new one")
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._watcher.start()
        self._previous_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in (*_EXIT_CODES, _SAVE_SIGNAL):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._set_flag)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back and end the watcher."""
        for number, previous in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back
            signal.signal(number, signal.SIG_DFL if previous is None else previous)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_wakeup)
        os.write(self._pipe[1], _END)
        self._watcher.join()
        for descriptor in self._pipe:
            os.close(descriptor)

    def _set_flag(self, number: int, _frame: FrameType | None) -> None:
        if number == _SAVE_SIGNAL:
            self._has_save_request = True
        elif not self._requested:
            self._requested = number

    def _watch(self) -> None:
        num_interrupts, is_reported = 0, False
        while (received := os.read(self._pipe[0], 1)) not in (_END, b""):
            number = received[0]
            if number not in _EXIT_CODES:
                continue
            num_interrupts += number == signal.SIGINT
            if num_interrupts > 1:
                os._exit(int(ExitCode.SIGINT))
            if not is_reported:
                is_reported = True
                self._on_first(number)
