"""The fleet's end of one worker: start it, send, receive in bounded time, say how it died, end it.

Whether a death ends the training is decided by the fleet.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, final

from esper.leyline import ConfigError
from esper.tolaria.fleet.messages import Reply, Request
from esper.tolaria.fleet.worker import WorkerStart, run_worker

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

_GRACE_S = 5.0
"""Time in which a process that was killed must be gone; only one that waits for a dead disk is not."""
_PRELOADED = ("esper.tolaria.fleet.worker", "esper.tolaria.fleet.worker_imports")


@final
class WorkerLostError(Exception):
    """Raised inside a fleet when a worker is dead or hangs; says how, never leaves the fleet."""


@final
class WorkerLink:
    """One worker process and the pipe to it.

    Example:
        link = WorkerLink(0, start, timeout_s=60.0)
        link.send(request)
        link.receive()
    """

    def __init__(self, number: int, start: WorkerStart, *, timeout_s: float) -> None:
        """Start the process.

        Args:
            number: Of the worker, from 0.
            start: What it is started with; must be picklable.
            timeout_s: Seconds that a write or a read of the pipe may stall.

        Raises:
            ConfigError: If this system cannot start workers.
        """
        self.number = number
        context = _open_context(start)
        self._connection, theirs = context.Pipe()
        self._timeout_s = timeout_s
        self._is_late = False
        self._process: ForkServerProcess = context.Process(
            target=run_worker, args=(theirs, start), name=f"esper-fleet-worker-{number}", daemon=True
        )
        try:
            self._process.start()
        finally:
            theirs.close()  # else its death would not close the pipe
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def connection(self) -> Connection:
        """What becomes readable when it has answered or died."""
        return self._connection

    def send(self, request: Request) -> None:
        """Ask the worker for something.

        Raises:
            WorkerLostError: If it does not take it.
        """
        try:
            with self._limit_stall():
                self._connection.send(request)
        except OSError as error:
            raise WorkerLostError(self._describe_end()) from error

    def receive(self) -> Reply:
        """Return the worker's answer, once the connection is readable.

        Raises:
            WorkerLostError: If there is none.
        """
        try:
            with self._limit_stall():
                reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._describe_end()) from error
        except Exception as error:
            raise WorkerLostError(f"gave an answer that cannot be read: {error}") from error
        assert isinstance(reply, Reply), reply
        return reply

    def kill(self) -> None:
        """Close the pipe and ask the system to end the process, one that is stopped, too."""
        self._connection.close()
        self._process.kill()

    def end(self) -> None:
        """End the process and wait until it is gone; harmless when repeated."""
        self.kill()
        self._process.join(_GRACE_S)

    @contextmanager
    def _limit_stall(self) -> Iterator[None]:
        """Let no write or read block for ever, e.g. on a worker that was stopped in the middle of a state."""
        timer = threading.Timer(self._timeout_s, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        """End a worker that stalls, so that its pipe closes."""
        self._is_late = True
        self._process.kill()

    def _describe_end(self) -> str:
        self._process.join(_GRACE_S)
        if self._is_late:
            return f"did not go on with its pipe for {self._timeout_s:g} s"
        code = self._process.exitcode
        if code is None:
            return "closed its pipe and did not end"
        if code >= 0:
            return f"exited with code {code}"
        name = signal.Signals(-code).name
        hint = "; the system does this when memory runs out" if -code == signal.SIGKILL else ""
        return f"was ended by signal {-code} ({name}){hint}"


def wait_for(links: Sequence[WorkerLink], deadline: float) -> list[WorkerLink]:
    """Return those links that have answered or died; none if the deadline (monotonic seconds) has passed."""
    ready = wait([link.connection for link in links], max(0.0, deadline - time.monotonic()))
    return [link for link in links if link.connection in ready]


def _open_context(start: WorkerStart) -> ForkServerContext:
    """Return how processes are started: copies of a clean one that has imported torch and the builder.

    Forking this process would copy locks that its threads hold; starting Python anew would import torch in
    every worker. What the clean process imports is settled when the first worker of this process starts.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise ConfigError(f"fleet of worker processes: not on {sys.platform}; choose serial")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, type(start.make_builder).__module__])
    return context
