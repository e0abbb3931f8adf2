"""Hosts in worker processes, one thread each: the same numbers as `SerialFleet`, on all cores at once.

```
call --_ask--> one Request per worker --> [ workers take the turns of their rows ] --> one Reply per worker
                    who died or hangs --> "stop": end all, raise its name
                                      --> "restart": another worker, its rows are lost
```
A row that is lost counts as finished, with a verdict of its own kind, until it is reset: what its host did
since it was last looked at is not known, so nothing may be learned from it. Knows neither network nor task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar, final

from esper.leyline import (
    WAIT,
    ActionResult,
    Decision,
    EpochOutcome,
    EsperError,
    Event,
    EventSink,
    ExitCode,
    NullSink,
    Observation,
    Verdict,
    VerdictKind,
)
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.fleet.config import FleetConfig
from esper.tolaria.fleet.messages import (
    PackedState,
    Reply,
    RowArgument,
    RowReply,
    RowStart,
    Verb,
    pack_state,
    rebuild_error,
    unpack_state,
)
from esper.tolaria.fleet.worker import MakeBuilder
from esper.tolaria.fleet.worker_pool import WorkerPool
from esper.tolaria.measuring import SplitResult

ColumnsT = TypeVar("ColumnsT")

_MAX_RESTARTS = 3
"""Restarts without an interval that every worker finished; after that the cause is taken to stay."""


@final
class FleetWorkerError(EsperError, RuntimeError):
    """Raised when a worker that runs hosts died, hangs or was lost; the message names it."""

    exit_code: ClassVar[ExitCode] = ExitCode.RANK_FAILURE

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows
        """Places of the fleet whose hosts it ran."""


@final
class ProcessFleet(Generic[ColumnsT]):
    """E host runs in worker processes that live as long as the fleet.

    Example:
        ProcessFleet(make_builder, [0, 1, 2], encode=encode_many).observe().slots.shape  # [3, S, F]
    """

    def __init__(
        self,
        make_builder: MakeBuilder,
        instances: Sequence[int],
        *,
        encode: Callable[[Sequence[Observation]], ColumnsT],
        config: FleetConfig | None = None,
        sink: EventSink | None = None,
    ) -> None:
        """Start the workers and build the hosts in them.

        Args:
            make_builder: Called once in each worker with a sink: makes what builds the host run of an
                instance id. Must be picklable; its tensors are shared with the workers, not copied.
            instances: [E] ids, E >= 1.
            encode: Makes columns [E, ...] of E observations, e.g. tamiyo's `encode_many`; called here.
            config: Workers, what follows the death of one, and how long one may take; None = the defaults.
            sink: Gets the events of all hosts, by row; None drops them in the workers.

        Raises:
            ValueError: If there is no instance, or one occurs twice.
            ConfigError: If this system cannot start workers.
            FleetWorkerError: If a worker dies while it builds.
        """
        if not instances or len(set(instances)) != len(instances):
            raise ValueError(f"instances={list(instances)}: need at least one, each once")
        self._config = FleetConfig(kind="process") if config is None else config
        self._encode = encode
        self._sink = NullSink() if sink is None else sink
        self._starts = [RowStart(instance=instance) for instance in instances]
        self._views: list[RowReply] = [RowReply() for _ in instances]
        self._observed: list[Observation | None] = [None] * len(instances)
        self._stale: set[int] = set()
        self._lost: dict[int, str] = {}
        self._untold: set[int] = set()
        self._num_restarts = 0
        self._pool = WorkerPool(
            make_builder,
            len(instances),
            num_workers=self._config.workers,
            timeout_s=self._config.timeout_s,
            has_sink=sink is not None,
            is_fused=self._config.kind == "fused_process",
        )
        try:
            self._ask(Verb.START, dict(enumerate(self._starts)))
        except BaseException:
            self.close()  # an error of a host leaves its fleet alive, but nobody has this one
            raise

    # ------------------------------------------------------------------ what a caller sees

    @property
    def num_hosts(self) -> int:
        """E; 0 when closed."""
        return len(self._starts)

    @property
    def is_finished(self) -> tuple[bool, ...]:
        """See `Fleet.is_finished`; rows that were lost count as finished until they are reset."""
        return tuple(view.is_finished or row in self._lost for row, view in enumerate(self._views))

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return self._pool.pids

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The rows of each worker."""
        return self._pool.blocks

    def observe(self) -> ColumnsT:
        """See `Fleet.observe`."""
        return self._encode(self.observations())

    def observations(self) -> tuple[Observation, ...]:
        """See `Fleet.observations`; of rows that were lost what was last seen of them."""
        stale = [row for row in self._list_live() if row in self._stale]
        if stale:
            self._ask(Verb.OBSERVE, dict.fromkeys(stale))
        seen = tuple(observation for observation in self._observed if observation is not None)
        assert len(seen) == self.num_hosts, "every row is observed when it is built"
        return seen

    # ------------------------------------------------------------------ episodes

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        """See `Fleet.reset`.

        Raises:
            FleetWorkerError: As every call: if a worker died or hangs, and the settings say stop.
        """
        states = [None] * len(mask) if start_states is None else start_states
        rows = [row for row, _ in enumerate(self._starts)]
        for row, is_reset, instance, state in zip(rows, mask, instances, states, strict=True):
            if is_reset:
                packed = None if state is None else pack_state(state)
                self._starts[row] = RowStart(instance=instance, state=packed)
        self._ask(Verb.START, {row: self._starts[row] for row in rows if mask[row]})

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        """See `Fleet.apply`; the decision for a row that was lost is refused."""
        given = dict(zip(range(self.num_hosts), decisions, strict=True))
        replies = self._ask(Verb.APPLY, {row: d for row, d in given.items() if row not in self._lost})
        results = []
        for row, decision in given.items():
            reply = replies.get(row)
            if reply is None:
                refusal = self._lost[row]
                results.append(
                    ActionResult(requested=decision.action, effective=WAIT, refusal=f"lost: {refusal}")
                )
                continue
            assert isinstance(reply.value, ActionResult), reply.value
            results.append(reply.value)
        return tuple(results)

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        """See `Fleet.train_epoch`; a row that was lost has no outcome and the verdict `VerdictKind.LOST`."""
        num_restarts = self._num_restarts
        replies = self._ask(Verb.TRAIN, self._list_live())
        if self._num_restarts == num_restarts:
            self._num_restarts = 0
        outcomes: list[EpochOutcome | None] = []
        for row in range(self.num_hosts):
            value = replies[row].value if row in replies else None
            assert value is None or isinstance(value, EpochOutcome), value
            outcomes.append(value)
        self._untold.clear()
        return tuple(outcomes), tuple(self._judge(row) for row in range(self.num_hosts))

    def finish(self) -> tuple[SplitResult, ...]:
        """See `Fleet.finish`.

        Raises:
            FleetWorkerError: If a row was lost: there is nothing to read.
        """
        replies = self._ask(Verb.FINISH, self._list_live())
        self._refuse_lost(self._lost, "finish")
        return tuple(_read_result(replies[row]) for row in range(self.num_hosts))

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        """See `Fleet.conclude`; None also where the row was lost."""
        pairs = zip(range(self.num_hosts), mask, strict=True)
        rows = [row for row, is_ended in pairs if is_ended and row not in self._lost]
        replies = self._ask(Verb.CONCLUDE, dict.fromkeys(rows))
        return tuple(_read_result(replies[row]) if row in replies else None for row in range(self.num_hosts))

    # ------------------------------------------------------------------ state

    def state(self) -> tuple[StateRecord, ...]:
        """See `Fleet.state`; of a row that was lost the state in which it was last reset.

        Raises:
            FleetWorkerError: If a row was lost and `train_epoch` has not told it yet: a state that hides it
                would be gone on with.
        """
        replies = self._ask(Verb.STATE, dict.fromkeys(range(self.num_hosts)))
        self._refuse_lost(self._untold, "state")
        records = []
        for row in range(self.num_hosts):
            value = replies[row].value
            assert isinstance(value, PackedState), value
            records.append(unpack_state(value))
        return tuple(records)

    def restore(self, states: Sequence[StateRecord]) -> None:
        """See `Fleet.restore`; rows that were lost are no longer."""
        packed = [pack_state(record) for record in states]
        for row, (start, state) in enumerate(zip(self._starts, packed, strict=True)):
            self._starts[row] = RowStart(instance=start.instance, state=state)
        self._ask(Verb.RESTORE, dict(enumerate(packed)))

    def close(self) -> None:
        """See `Fleet.close`; ends every worker and waits until it is gone."""
        self._pool.close()
        self._starts, self._views, self._observed = [], [], []
        self._lost, self._untold, self._stale = {}, set(), set()

    # ------------------------------------------------------------------ one call of all workers

    def _ask(self, verb: Verb, arguments: Mapping[int, RowArgument]) -> dict[int, RowReply]:
        """Send one request to each worker that has such rows; return what came, by row.

        Rows of a worker that was restarted meanwhile are missing in the answer.

        Raises:
            FleetWorkerError: If a worker died or hangs, and is not restarted.
            RuntimeError: If the fleet is closed.
            Exception: What a host run raised; that of the first row.
        """
        if self._pool.is_closed:
            raise RuntimeError("the fleet is closed; build another one")
        try:
            replies, lost = self._pool.ask(verb, arguments)
            begun = [self._replace_worker(number, verb, how) for number, how in lost.items()]
        except BaseException:
            # Answers that are still on their way would be taken for those to the next call.
            self.close()
            raise
        if verb in (Verb.START, Verb.RESTORE):
            replies += begun  # built from what was just asked for
            for row in arguments:
                self._lost.pop(row, None)
                self._untold.discard(row)
        elif failures := [reply.failure for reply in begun if reply.failure is not None]:
            raise rebuild_error(failures[0])
        return self._take_in(verb, replies)

    def _take_in(self, verb: Verb, replies: Sequence[Reply]) -> dict[int, RowReply]:
        """Remember how hosts stand, pass events on by row, raise the error of the first row that has one."""
        failures = [reply.failure for reply in replies if reply.failure is not None]
        first = min(failures, key=lambda f: -1 if f.row is None else f.row, default=None)
        rows = dict(sorted(pair for reply in replies for pair in reply.rows.items()))
        for row, reply in rows.items():
            # One host after another would not have come to rows behind the error.
            if first is None or (first.row is not None and row < first.row):
                self._emit(reply.events)
            self._views[row] = reply
            if verb is Verb.APPLY:
                self._stale.add(row)
            if reply.observation is not None and row not in self._lost:
                self._observed[row] = reply.observation
                self._stale.discard(row)
        if first is not None:
            self._emit(first.events)
            raise rebuild_error(first)
        return rows

    def _emit(self, events: Sequence[Event]) -> None:
        for event in events:
            self._sink.emit(event)

    # ------------------------------------------------------------------ workers

    def _replace_worker(self, number: int, verb: Verb, how: str) -> Reply:
        """Put another worker in the place of one that was lost; return how its hosts began anew.

        Raises:
            FleetWorkerError: If the settings say stop, or restarts do not help.
        """
        rows = self._pool.blocks[number]
        report = self._describe_loss(number, verb, how)
        while True:
            if self._config.on_death == "stop":
                raise FleetWorkerError(
                    f"{report}; with fleet.on_death=restart the others go on without its episodes", rows
                )
            if self._num_restarts >= _MAX_RESTARTS:
                raise FleetWorkerError(f"{report}; {_MAX_RESTARTS} restarts did not help", rows)
            self._num_restarts += 1
            self._lost |= dict.fromkeys(rows, report)
            self._untold |= set(rows)
            self._pool.replace(number)
            replies, lost = self._pool.ask(Verb.START, {row: self._starts[row] for row in rows})
            if replies:
                return replies[0]
            report = self._describe_loss(number, Verb.START, lost[number])

    def _describe_loss(self, number: int, verb: Verb, how: str) -> str:
        rows = self._pool.blocks[number]
        named, instances = (
            ", ".join(map(str, numbers)) for numbers in (rows, [self._starts[row].instance for row in rows])
        )
        return (
            f"fleet worker {number} (pid {self._pool.pids[number]}; rows {named}; instances {instances}) "
            f"{how} during {verb.value}"
        )

    # ------------------------------------------------------------------ rows

    def _list_live(self) -> dict[int, RowArgument]:
        """Return the rows that were not lost, without arguments."""
        return dict.fromkeys(row for row in range(self.num_hosts) if row not in self._lost)

    def _judge(self, row: int) -> Verdict:
        if row in self._lost:
            return Verdict(kind=VerdictKind.LOST, reason=self._lost[row])
        return self._views[row].verdict

    def _refuse_lost(self, rows: Collection[int], call: str) -> None:
        if rows:
            row = min(rows)
            raise FleetWorkerError(f"{call}: row {row} was lost: {self._lost[row]}; reset it first", (row,))


def _read_result(reply: RowReply) -> SplitResult:
    assert isinstance(reply.value, SplitResult), reply.value
    return reply.value
