"""The fleet's end of one worker: start it, send, receive in bounded time, say how it died, end it.

Whether a death ends the training is decided by the fleet.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
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
        _limit_stalls(self._connection, timeout_s)
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
            self._connection.send(request)
        except OSError as error:
            raise WorkerLostError(self._describe_end(error)) from error

    def receive(self) -> Reply:
        """Return the worker's answer, once the connection is readable.

        Raises:
            WorkerLostError: If there is none.
        """
        try:
            reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._describe_end(error)) from error
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

    def _describe_end(self, error: Exception) -> str:
        if isinstance(error, BlockingIOError):
            return "did not go on with the pipe"
        self._process.join(_GRACE_S)
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
        raise ConfigError(f"fleet.kind='process': not on {sys.platform}; choose serial")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, type(start.make_builder).__module__])
    return context


def _limit_stalls(connection: Connection, timeout_s: float) -> None:
    """Let no single write or read block longer than this, e.g. on a worker that was stopped in the middle."""
    interval = struct.pack("@ll", int(timeout_s), max(1, int(timeout_s % 1.0 * 1e6)))  # zero would be forever
    with socket.socket(fileno=connection.fileno()) as ours:
        try:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, interval)
        finally:
            ours.detach()
