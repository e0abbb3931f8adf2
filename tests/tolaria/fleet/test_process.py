"""The process fleet does bit for bit what one host after another does, and survives or names what dies.

Also shows tolaria/fleet/worker_link.py and tolaria/fleet/worker_imports.py at work.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from esper.leyline import ConfigError, Decision, EpochOutcome, NullSink, VerdictKind
from esper.tamiyo import EncodedBatch, encode_many
from esper.tolaria import Fleet, FleetConfig, FleetWorkerError, ProcessFleet, SerialFleet, StateRecord
from tolaria.small_run import ListSink, assert_same

from .fleets import SmallHosts, Strike, UnlikeItsArgumentsError, decide_row, small_hosts

INSTANCES = (3, 5, 7, 8, 9)
ROLLBACK = Strike(instance=5, epoch=3, what="rollback")


def make_serial(
    hosts: SmallHosts, instances: Sequence[int] = INSTANCES, sink: ListSink | None = None
) -> SerialFleet[EncodedBatch]:
    return SerialFleet(hosts(NullSink() if sink is None else sink), instances, encode=encode_many)


@contextmanager
def open_fleet(
    hosts: SmallHosts,
    instances: Sequence[int] = INSTANCES,
    *,
    workers: int = 2,
    on_death: str = "stop",
    sink: ListSink | None = None,
) -> Iterator[ProcessFleet[EncodedBatch]]:
    config = FleetConfig(kind="process", workers=workers, on_death=on_death, timeout_s=120.0)
    fleet = ProcessFleet(hosts, instances, encode=encode_many, config=config, sink=sink)
    try:
        yield fleet
    finally:
        fleet.close()


def has_ended(pid: int, within_s: float = 60.0) -> bool:
    """Whether a process ends, or has ended, within a time that only a failure uses up."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


@dataclass(slots=True)
class Story:
    """Everything that a fleet returned, as text without clock times, and its states."""

    lines: list[str] = field(default_factory=list)
    states: list[StateRecord] = field(default_factory=list)

    def step(self, fleet: Fleet[EncodedBatch], epoch: int) -> None:
        decisions = [decide_row(row, epoch) for row in range(fleet.num_hosts)]
        self.lines.append(repr(fleet.apply(decisions)))
        outcomes, verdicts = fleet.train_epoch()
        self.lines.append(repr([without_clock(outcome) for outcome in outcomes]))
        self.lines += [repr(verdicts), repr(fleet.is_finished), repr(fleet.observations())]
        self.lines.append(repr(fleet.observe().slots.double().sum().item()))


def without_clock(outcome: EpochOutcome | None) -> EpochOutcome | None:
    return None if outcome is None else replace(outcome, seconds=0.0)


def live(fleet: Fleet[EncodedBatch]) -> Story:
    """Seeds, culls, a rollback, conclusions, new hosts beside old ones, start states, the horizon, states."""
    story, size = Story(), fleet.num_hosts
    story.lines.append(repr(fleet.observations()))
    for epoch in range(3):
        story.step(fleet, epoch)
    early = fleet.state()
    for epoch in range(3, 6):
        story.step(fleet, epoch)
    is_odd = [row % 2 == 1 for row in range(size)]
    story.lines.append(repr(fleet.conclude(is_odd)))
    story.lines.append(repr(fleet.observations()))
    fleet.reset(
        is_odd, [20 + row for row in range(size)], [early[1] if row == 1 else None for row in range(size)]
    )
    fleet.apply([Decision() for _ in range(size)])
    story.lines.append(repr(fleet.observations()))
    for epoch in range(6, 6 + 3):
        story.step(fleet, epoch)
    story.states += fleet.state()
    fleet.restore(early)
    story.step(fleet, 3)
    story.states += fleet.state()
    story.lines.append(repr(fleet.finish()))
    return story


@dataclass(slots=True)
class Told:
    """What the oracle did."""

    story: Story
    sink: ListSink


@pytest.fixture(scope="module")
def oracle() -> Told:
    sink = ListSink()
    return Told(live(make_serial(small_hosts(ROLLBACK), sink=sink)), sink)


@pytest.mark.battery("T45")
@pytest.mark.golden
@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_workers_do_bit_for_bit_what_one_host_after_another_does(oracle: Told, workers: int) -> None:
    sink = ListSink()
    with open_fleet(small_hosts(ROLLBACK), workers=workers, sink=sink) as fleet:
        assert len(fleet.pids) == workers
        story = live(fleet)
    assert story.lines == oracle.story.lines
    for mine, theirs in zip(story.states, oracle.story.states, strict=True):
        assert_same(theirs.tensors, mine.tensors)
        assert mine.state == theirs.state
    assert [repr(event) for event in sink.events] == [repr(event) for event in oracle.sink.events]


def test_the_oracle_saw_seeds_culls_and_a_rollback(oracle: Told) -> None:
    kinds = {event.kind for event in oracle.sink.events}
    assert {"RolledBack", "SeedGerminated", "SeedCulled"} <= kinds, kinds
    text = "\n".join(oracle.story.lines)
    assert VerdictKind.NON_FINITE in text
    assert "CULL" in text


@pytest.mark.battery("T45")
@pytest.mark.fault
@pytest.mark.parametrize(
    ("what", "how"), [("exit", "exited with code 7"), ("kill", r"was ended by signal 9 \(SIGKILL\)")]
)
def test_a_dead_worker_is_named_and_the_others_are_ended(what: str, how: str) -> None:
    with open_fleet(small_hosts(Strike(instance=8, epoch=0, what=what))) as fleet:
        pids = fleet.pids
        pattern = rf"fleet worker 1 \(pid {pids[1]}; rows 2, 3, 4; instances 7, 8, 9\) {how}.*train_epoch"
        with pytest.raises(FleetWorkerError, match=pattern) as caught:
            fleet.train_epoch()
        assert caught.value.rows == (2, 3, 4)
        assert all(map(has_ended, pids))
        with pytest.raises(RuntimeError, match="closed"):
            fleet.train_epoch()


@pytest.mark.battery("T45")
@pytest.mark.fault
def test_a_worker_that_hangs_is_named_at_the_timeout() -> None:
    with open_fleet(small_hosts()) as fleet:
        pids = fleet.pids
        fleet._pool._timeout_s = 0.5
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(
            FleetWorkerError, match=rf"worker 0 \(pid {pids[0]};.* did not answer within 0.5 s"
        ):
            fleet.train_epoch()
        assert all(map(has_ended, pids))


@pytest.mark.battery("T45")
@pytest.mark.fault
@pytest.mark.slow
def test_after_a_restart_lost_rows_end_and_the_others_live_as_before() -> None:
    hosts, size = small_hosts(Strike(instance=5, epoch=1, what="kill")), len(INSTANCES)
    serial = make_serial(small_hosts())
    with open_fleet(hosts, on_death="restart") as fleet:
        before, block = fleet.pids, fleet.blocks[0]
        for epoch in range(2):
            seen = fleet.observations()
            decisions = [decide_row(row, epoch) for row in range(size)]
            fleet.apply(decisions)
            serial.apply(decisions)
            outcomes, verdicts = fleet.train_epoch()
            expected = serial.train_epoch()
        assert block == (0, 1)
        assert [verdict.kind for verdict in verdicts[:2]] == [VerdictKind.LOST] * 2
        assert f"pid {before[0]}; rows 0, 1; instances 3, 5" in verdicts[0].reason
        assert outcomes[:2] == (None, None)
        assert list(map(without_clock, outcomes[2:])) == list(map(without_clock, expected[0][2:]))
        assert fleet.is_finished == (True, True, False, False, False)
        assert repr(fleet.observations()[:2]) == repr(seen[:2])
        assert fleet.conclude([True, False, False, False, False]) == (None,) * size
        assert fleet.apply([Decision()] * size)[0].is_refused
        serial.apply([Decision()] * size)
        assert fleet.pids[0] != before[0]
        assert fleet.pids[1] == before[1]
        assert has_ended(before[0])
        # Reset, they live; the state of their start is what a checkpoint would have held.
        fleet.reset([True, True, False, False, False], [11, 12, 7, 8, 9])
        serial.reset([True, True, False, False, False], [11, 12, 7, 8, 9])
        assert fleet.is_finished == serial.is_finished
        fleet.train_epoch()
        serial.train_epoch()
        for mine, theirs in zip(fleet.state(), serial.state(), strict=True):
            assert_same(theirs.tensors, mine.tensors)


@pytest.mark.fault
@pytest.mark.slow
def test_a_worker_that_dies_while_it_is_reset_loses_only_the_rows_that_went_on() -> None:
    with open_fleet(small_hosts(), on_death="restart") as fleet:
        os.kill(fleet.pids[0], signal.SIGKILL)
        fleet.reset([True, False, False, False, False], [11, 5, 7, 8, 9])
        assert fleet.is_finished == (False, True, False, False, False)
        with pytest.raises(FleetWorkerError, match="state: row 1 was lost"):
            fleet.state()
        _, verdicts = fleet.train_epoch()
        assert [verdict.kind == VerdictKind.LOST for verdict in verdicts] == [
            False,
            True,
            False,
            False,
            False,
        ]
        assert len(fleet.state()) == len(INSTANCES)
        with pytest.raises(FleetWorkerError, match="finish: row 1 was lost"):
            fleet.finish()


@pytest.mark.battery("T45")
@pytest.mark.fault
@pytest.mark.slow
def test_restarts_that_do_not_help_end_the_fleet() -> None:
    with open_fleet(small_hosts(Strike(instance=3, epoch=0, what="exit")), (3,), on_death="restart") as fleet:
        for _ in range(3):
            fleet.train_epoch()
            fleet.reset([True], [3])
        with pytest.raises(FleetWorkerError, match="3 restarts did not help"):
            fleet.train_epoch()


@pytest.mark.battery("T45")
@pytest.mark.fault
@pytest.mark.slow
def test_an_error_in_a_host_keeps_its_type_and_message_and_says_where_it_was_raised() -> None:
    with open_fleet(small_hosts(Strike(instance=7, epoch=0, what="raise"))) as fleet:
        with pytest.raises(UnlikeItsArgumentsError) as caught:
            fleet.train_epoch()
        assert str(caught.value) == "one and 2"
        assert caught.value.second == 2
        assert "fleets.py" in caught.value.__notes__[0]
        fleet.reset([True] * 5, [21, 22, 23, 24, 25])
        assert None not in fleet.train_epoch()[0]


def test_workers_ignore_signals_that_ask_their_process_group_to_stop() -> None:
    with open_fleet(small_hosts(), (0, 1)) as fleet:
        for pid in fleet.pids:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert None not in fleet.train_epoch()[0]


@pytest.mark.slow
def test_an_interrupt_of_the_caller_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with open_fleet(small_hosts(), (0, 1)) as fleet:
        pids = fleet.pids
        monkeypatch.setattr("esper.tolaria.fleet.worker_pool.wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fleet.train_epoch()
        assert all(map(has_ended, pids))


def test_close_ends_every_worker_and_may_be_repeated() -> None:
    with open_fleet(small_hosts(), (0, 1, 2), workers=3) as fleet:
        pids = fleet.pids
        assert len(set(pids)) == 3
        fleet.close()
        assert all(map(has_ended, pids))
        fleet.close()
        assert fleet.num_hosts == 0


def test_hosts_that_cannot_be_built_leave_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = list[int]()
    close = ProcessFleet.close

    def watched(fleet: ProcessFleet[EncodedBatch]) -> None:
        pids.extend(fleet.pids)
        close(fleet)

    monkeypatch.setattr(ProcessFleet, "close", watched)
    hosts = replace(small_hosts(), refused=5)
    with pytest.raises(ConfigError, match="host 5 is refused"), open_fleet(hosts):
        pass
    assert pids
    assert all(map(has_ended, pids))


@pytest.mark.parametrize("instances", [[], [1, 1]])
def test_instances_must_be_there_and_differ(instances: list[int]) -> None:
    with pytest.raises(ValueError, match="need at least one"), open_fleet(small_hosts(), instances):
        pass


PROGRAM = """
import os, sys
from tolaria.fleet.fleets import small_hosts
from tolaria.fleet.test_process import encode_many
from esper.tolaria import FleetConfig, ProcessFleet

if __name__ == "__main__":
    config = FleetConfig(kind="process", workers=2)
    fleet = ProcessFleet(small_hosts(), (0, 1), encode=encode_many, config=config)
    print(*fleet.pids, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.battery("T45")
@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [True, False])
def test_no_worker_outlives_its_parent_however_that_ends(is_killed: bool) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        if is_killed:
            parent.kill()
        else:
            parent.stdin.write("\n")  # it ends without closing its fleet
            parent.stdin.flush()
        assert parent.wait(timeout=60) == (-signal.SIGKILL if is_killed else 0)
    assert all(map(has_ended, pids))
