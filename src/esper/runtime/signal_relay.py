"""Hands the signals of a launcher on to its ranks, those that start a moment later included.

```
SIGINT, SIGTERM, SIGHUP, SIGUSR2 -> handler: note it -> relay thread: send it to each rank that is known
                                                     -> after the patience: SIGKILL to what is left
SIGUSR1 (save and go on)         -> the same, without an end
```
A terminal does not reach ranks, because each leads a session of its own. A second SIGINT is handed on, too:
it lets a rank end at once. Each rank writes the number of its process into a file; only a child of this
process is ever signalled. POSIX only. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Self, final

_SAVE = signal.SIGUSR1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, _SAVE)
_END = 0
"""No signal has number 0, so this ends the thread."""
_EVERY_S = 0.05
"""Seconds between two looks for ranks that have not got a signal yet."""


@final
class SignalRelay:
    """While entered, signals go to the ranks; the handlers found before are put back afterwards.

    A signal that was ignored before (SIGHUP under nohup) stays ignored. Main thread only.

    Example:
        with SignalRelay(folder, num_ranks=2, patience_s=90.0) as relay:
            start_and_wait()
        return relay.requested
    """

    def __init__(self, folder: Path, *, num_ranks: int, patience_s: float) -> None:
        """Prepare; nothing is installed yet.

        Args:
            folder: Where ranks write the numbers of their processes.
            num_ranks: Number of ranks, >= 1.
            patience_s: Seconds from the first signal to SIGKILL, > 0.
        """
        self._folder, self._patience_s = folder, patience_s
        self._num_sent = dict.fromkeys(range(num_ranks), 0)
        self._requested = 0
        self._received: SimpleQueue[int] = SimpleQueue()  # its `put` may interrupt itself: made for handlers
        self._previous: dict[int, object] = {}
        self._thread = threading.Thread(target=self._run, name="signal-relay", daemon=True)

    @property
    def requested(self) -> int:
        """Number of the first stop signal received; 0 = none."""
        return self._requested

    def __enter__(self) -> Self:
        """Install handlers and start the thread.

        Raises:
            ValueError: If this is not the main thread.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back and end the thread."""
        for number, previous in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back
            signal.signal(number, signal.SIG_DFL if previous is None else previous)  # type: ignore[arg-type]
        self._received.put(_END)
        self._thread.join()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self._requested and number != _SAVE:
            self._requested = number
        self._received.put(number)

    def _run(self) -> None:
        numbers: list[int] = []
        kill_at_s: float | None = None
        while True:
            try:
                number = self._received.get(timeout=_EVERY_S if numbers else None)
            except Empty:
                number = None
            if number == _END:
                return
            if number is not None:
                numbers.append(number)
                if number != _SAVE:
                    kill_at_s = kill_at_s or time.monotonic() + self._patience_s
            if kill_at_s is not None and signal.SIGKILL not in numbers and time.monotonic() >= kill_at_s:
                numbers.append(signal.SIGKILL)
            self._hand_on(numbers)

    def _hand_on(self, numbers: list[int]) -> None:
        for rank, num_sent in self._num_sent.items():
            pid = read_own_child(path_of_pid(self._folder, rank))
            if pid is None:
                continue
            for number in numbers[num_sent:]:
                send_signal(pid, number)
            self._num_sent[rank] = len(numbers)


def path_of_pid(folder: Path, rank: int) -> Path:
    """Return where a rank writes the number of its process."""
    return folder / f"rank-{rank}.pid"


def read_own_child(path: Path) -> int | None:
    """Return the process in a file; None if there is none (yet), or it is not a running child of this one."""
    try:
        pid = int(path.read_text(encoding="ascii"))
        # Neither waits nor reaps. A child that was reaped is no child, so that no number is used twice.
        is_over = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except (OSError, ValueError, OverflowError):
        return None
    return None if is_over else pid


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a rank; SIGKILL also to its own children, who would otherwise be left behind."""
    try:
        if number == signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended meanwhile
