"""A worker of a process fleet: owns the host runs of its rows and answers requests until its pipe closes.

```
run_worker: ignore signals, pin, one thread -> make_builder -> [ recv Request -> row by row -> send Reply ]
```
The fleet decides when a worker ends. A signal to the whole process group must not take the hosts away before
they are saved, so workers ignore those that ask to stop; they end when their fleet's process does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import final

import torch

from esper.leyline import Decision, EpochOutcome, Event, EventSink, NullSink
from esper.tolaria.fleet.fused import FusedTrainer
from esper.tolaria.fleet.messages import (
    PackedState,
    Reply,
    Request,
    RowArgument,
    RowReply,
    RowStart,
    RowValue,
    Verb,
    describe_failure,
    pack_state,
    unpack_state,
)
from esper.tolaria.host_run import HostRun

BuildRun = Callable[[int], HostRun]
"""Makes the host run of an instance id."""
MakeBuilder = Callable[[EventSink], BuildRun]
"""Makes what builds host runs whose events go to the sink; called once in each worker."""

_UNSEEN = (Verb.APPLY, Verb.STATE)
"""After these nobody looks at a host: it is about to train, or it stands as it stood."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStart:
    """What a worker is started with; travels to it once, data sets in shared memory."""

    make_builder: MakeBuilder
    has_sink: bool
    """Whether events are wanted."""
    core: int | None
    """Core to stay on; None = any."""
    is_fused: bool = False
    """Whether the worker's hosts of one architecture train as one program."""


@final
@dataclass(slots=True)
class _EventList:
    """Keeps events until they are taken."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Take one event."""
        self.events.append(event)

    def take(self) -> tuple[Event, ...]:
        """Return what has come since the last call."""
        taken = tuple(self.events)
        self.events.clear()
        return taken


def run_worker(connection: Connection, start: WorkerStart) -> None:
    """Answer requests until the other end of the connection closes."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start.core is not None:
        os.sched_setaffinity(0, {start.core})
    torch.set_num_threads(1)
    rows = WorkerRows(start)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        reply = rows.answer(request)
        try:
            connection.send(reply)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 - the fleet is told why there is no answer
            connection.send(Reply(failure=describe_failure(RuntimeError(str(error)), None)))


def _end_with_parent() -> None:
    """End this process at once when that of the fleet has ended, in the middle of an interval, too."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@final
class WorkerRows:
    """The host runs of one worker, by row; knows nothing of processes."""

    def __init__(self, start: WorkerStart) -> None:
        """Build nothing yet."""
        self._start = start
        self._events = _EventList()
        self._build: BuildRun | None = None
        self._runs: dict[int, HostRun] = {}
        self._trainer = FusedTrainer() if start.is_fused else None

    def answer(self, request: Request) -> Reply:
        """Carry out a request row by row, in its order; an error ends it there."""
        replies: dict[int, RowReply] = {}
        row: int | None = None
        try:
            build = self._builder()
            outcomes = self._train_together(list(request.rows)) if request.verb is Verb.TRAIN else {}
            for row, argument in request.rows.items():
                if request.verb is Verb.START:
                    self._begin(build, row, argument)
                    value: RowValue = None
                elif row in outcomes:
                    value = outcomes[row]
                else:
                    value = self._carry_out(request.verb, row, argument)
                replies[row] = self._describe(row, value, is_observed=request.verb not in _UNSEEN)
        except Exception as error:  # noqa: BLE001 - carried to the fleet, which raises it
            return Reply(rows=replies, failure=describe_failure(error, row, self._events.take()))
        return Reply(rows=replies)

    def _train_together(self, rows: Sequence[int]) -> dict[int, EpochOutcome | None]:
        """Return the outcomes of rows that train as one program; empty where each trains alone."""
        if self._trainer is None:
            return {}
        return dict(zip(rows, self._trainer.train([self._runs[row] for row in rows]), strict=True))

    def _builder(self) -> BuildRun:
        if self._build is None:
            self._build = self._start.make_builder(self._events if self._start.has_sink else NullSink())
        return self._build

    def _begin(self, build: BuildRun, row: int, argument: RowArgument) -> None:
        assert isinstance(argument, RowStart), argument
        self._runs[row] = build(argument.instance)
        if argument.state is not None:
            self._runs[row].restore(unpack_state(argument.state))

    def _carry_out(self, verb: Verb, row: int, argument: RowArgument) -> RowValue:
        run = self._runs[row]
        if verb is Verb.APPLY:
            assert isinstance(argument, Decision), argument
            return run.apply(Decision(reason="finished") if run.is_finished else argument)
        if verb is Verb.TRAIN:
            return None if run.is_finished else run.train_epoch()
        if verb is Verb.FINISH:
            return run.finish()
        if verb is Verb.CONCLUDE:
            return run.conclude()
        if verb is Verb.STATE:
            return pack_state(run.state())
        if verb is Verb.RESTORE:
            assert isinstance(argument, PackedState), argument
            run.restore(unpack_state(argument))
        return None

    def _describe(self, row: int, value: RowValue, *, is_observed: bool) -> RowReply:
        run = self._runs[row]
        return RowReply(
            value=value,
            is_finished=run.is_finished,
            verdict=run.verdict,
            observation=run.observe() if is_observed else None,
            events=self._events.take(),
        )
