"""Programs that take turns in processes of their own: each computes while the others wait.

So times of ways that alternate pair what stood side by side, threads of one way are not those of another, and
memory is that of one way alone.
"""

from __future__ import annotations

import multiprocessing
import re
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

KIB_PER_MIB = 1024


class Link:
    """A process that answers one question after another.

    Example:
        Link(lambda pipe: pipe.send(1)).receive()  # 1
    """

    def __init__(self, work: Callable[[Connection], None]) -> None:
        """Start it as a copy of this process, which has imported everything and should compute nothing.

        Args:
            work: Done there; speaks through the pipe that it is handed, and may end when that ends.
        """
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs, self._pipe))
        self._process.start()
        theirs.close()

    def ask(self, question: object) -> object:
        """Send a question and return the answer."""
        self.send(question)
        return self.receive()

    def send(self, question: object) -> None:
        """Send what is not answered."""
        self._pipe.send(question)

    def receive(self) -> object:
        """Return what comes next.

        Raises:
            RuntimeError: If the process failed.
        """
        answer = self._pipe.recv()
        if isinstance(answer, _Failure):
            raise RuntimeError(answer.text)
        return answer

    def close(self) -> None:
        """End the process as soon as it listens."""
        self._pipe.close()
        self._process.join()


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _serve(work: Callable[[Connection], None], theirs: Connection, mine: Connection) -> None:
    mine.close()  # else it would keep its own pipe open when the other end is gone
    try:
        work(theirs)
    except EOFError:  # nobody asks any more
        return
    except Exception:  # noqa: BLE001 - raised again by whoever asks
        theirs.send(_Failure(traceback.format_exc()))


def measure_peaks(pid: int) -> list[float]:
    """Return the largest resident sets of a process and of all that come from it, in MiB.

    Memory that several share is counted in each. Empty where the system has no /proc.
    """
    parents, peaks = dict[int, int](), dict[int, float]()
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:  # it has ended meanwhile
            continue
        found = {name: int(value) for name, value in re.findall(r"^(PPid|VmHWM):\s+(\d+)", text, re.M)}
        if len(found) == 2:  # not one that is ending
            parents[int(path.parent.name)] = found["PPid"]
            peaks[int(path.parent.name)] = found["VmHWM"] / KIB_PER_MIB
    family, fresh = set[int](), {pid}
    while fresh:
        family |= fresh
        fresh = {child for child, parent in parents.items() if parent in fresh} - family
    return [peaks[member] for member in sorted(family & set(peaks))]
