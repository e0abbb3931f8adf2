"""The workers of a fleet: rows dealt in blocks, all asked at once, each ended for certain.

Knows which rows a worker has and how it was lost; what that means for an episode is the fleet's business.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from multiprocessing.util import Finalize
from typing import NamedTuple, final

from esper.tolaria.fleet.messages import Reply, Request, RowArgument, Verb
from esper.tolaria.fleet.worker import MakeBuilder, WorkerStart
from esper.tolaria.fleet.worker_link import WorkerLink, WorkerLostError, wait_for

_BEFORE_JOINING = 10
"""When this process ends, workers are ended before `multiprocessing` waits for them."""


class Answers(NamedTuple):
    """What one question to the workers came to."""

    replies: list[Reply]
    lost: dict[int, str]
    """Worker -> how it was lost."""


@final
class WorkerPool:
    """Worker processes, by number; each owns a block of rows.

    Example:
        WorkerPool(make, 5, num_workers=2, timeout_s=60.0, has_sink=False).blocks  # ((0, 1), (2, 3, 4))
    """

    def __init__(
        self,
        make_builder: MakeBuilder,
        num_rows: int,
        *,
        num_workers: int,
        timeout_s: float,
        has_sink: bool,
        is_fused: bool = False,
    ) -> None:
        """Start the workers.

        Args:
            make_builder: What they build hosts with; must be picklable.
            num_rows: E, >= 1.
            num_workers: >= 0; 0 = one per usable core. No more than E are started.
            timeout_s: Seconds in which a worker must answer.
            has_sink: Whether events are wanted.
            is_fused: Whether each worker trains its hosts of one architecture as one program.

        Raises:
            ConfigError: If this system cannot start workers.
        """
        self._make_builder = make_builder
        self._has_sink = has_sink
        self._is_fused = is_fused
        self._timeout_s = timeout_s
        self._cores = list_cores()
        self.blocks = deal_blocks(num_rows, num_workers or len(self._cores) or os.cpu_count() or 1)
        self._links: list[WorkerLink] = []
        self._finalizer = Finalize(self, _end_all, args=(self._links,), exitpriority=_BEFORE_JOINING)
        try:
            for number in range(len(self.blocks)):
                self._links.append(self._start(number))
        except BaseException:
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether the workers were ended."""
        return not self._links

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, by worker."""
        return tuple(link.pid for link in self._links)

    def ask(self, verb: Verb, arguments: Mapping[int, RowArgument]) -> Answers:
        """Send one request to each worker that has some of the rows, then wait for all answers.

        Args:
            verb: What to do.
            arguments: Row -> argument.
        """
        deadline = time.monotonic() + self._timeout_s
        answers = Answers([], {})
        waiting: list[WorkerLink] = []
        for link in self._links:
            rows = {row: arguments[row] for row in self.blocks[link.number] if row in arguments}
            if not rows:
                continue
            try:
                link.send(Request(verb=verb, rows=rows))
                waiting.append(link)
            except WorkerLostError as error:
                answers.lost[link.number] = str(error)
        while waiting:
            ready = wait_for(waiting, deadline)
            if not ready:
                late = f"did not answer within {self._timeout_s:g} s"
                answers.lost.update((link.number, late) for link in waiting)
                break
            for link in ready:
                waiting.remove(link)
                try:
                    answers.replies.append(link.receive())
                except WorkerLostError as error:
                    answers.lost[link.number] = str(error)
        return answers

    def replace(self, number: int) -> None:
        """End a worker and start another one in its place, which has no hosts yet."""
        self._links[number].end()
        self._links[number] = self._start(number)

    def close(self) -> None:
        """End every worker and wait until it is gone; harmless when repeated."""
        _end_all(self._links)
        self._finalizer.cancel()

    def _start(self, number: int) -> WorkerLink:
        core = self._cores[number % len(self._cores)] if self._cores else None
        start = WorkerStart(
            make_builder=self._make_builder, has_sink=self._has_sink, core=core, is_fused=self._is_fused
        )
        return WorkerLink(number, start, timeout_s=self._timeout_s)


def deal_blocks(num_rows: int, num_workers: int) -> tuple[tuple[int, ...], ...]:
    """Return the rows of each worker: neighbours, and none has more than one more than another.

    Args:
        num_rows: E, >= 1.
        num_workers: >= 1; no more than E are used.
    """
    size = min(num_rows, num_workers)
    return tuple(tuple(range(num_rows * k // size, num_rows * (k + 1) // size)) for k in range(size))


def list_cores() -> tuple[int, ...]:
    """Return the cores that this process may use; () where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if sys.platform == "linux" else ()


def _end_all(links: list[WorkerLink]) -> None:
    """End workers, all of them at once, and forget them."""
    for link in links:
        link.kill()
    for link in links:
        link.end()
    links.clear()
