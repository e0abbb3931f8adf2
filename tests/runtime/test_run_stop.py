from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.leyline import ExitCode
from esper.runtime.run_stop import RunStop, TimeLimit
from esper.runtime.shutdown import StopSignal


class Clock:
    """A clock that is set by hand, in seconds; starts anywhere, as a monotonic one does."""

    def __init__(self) -> None:
        self.now_s = 12_345.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def signals() -> Iterator[StopSignal]:
    with StopSignal() as entered:
        yield entered


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_time_limit_is_over_at_its_last_second_and_not_before(clock: Clock) -> None:
    limit = TimeLimit(1.5, clock)
    clock.now_s += 5399.0
    assert not limit()
    clock.now_s += 1.0
    assert limit()


def test_without_a_limit_time_is_never_over(clock: Clock) -> None:
    limit = TimeLimit(None, clock)
    clock.now_s += 1e12
    assert not limit()


def test_a_run_stops_as_if_terminated_when_its_time_is_over(signals: StopSignal, clock: Clock) -> None:
    stop = RunStop(signals, TimeLimit(2.0, clock))
    assert (stop(), stop.pauses(), stop.exit_code) == (False, False, ExitCode.OK)
    clock.now_s += 7200.0
    assert (stop(), stop.pauses(), stop.is_time_over) == (True, True, True)
    assert stop.exit_code is ExitCode.SIGTERM
    error = stop.describe("e0003-b00007", Path("runs/a"))
    assert error.signal_exit_code is ExitCode.SIGTERM
    assert str(error) == (
        "stopped after 2 hours (checkpoint.max_hours); saved e0003-b00007; go on: esper train --resume runs/a"
    )


def test_a_signal_stops_a_run_with_its_own_code(signals: StopSignal, clock: Clock) -> None:
    stop = RunStop(signals, TimeLimit(2.0, clock))
    signal.raise_signal(signal.SIGINT)
    assert (stop(), stop.exit_code, stop.is_time_over) == (True, ExitCode.SIGINT, False)
    assert "stopped by a signal; this place could NOT be saved" in str(stop.describe(None, Path("runs/a")))


@pytest.mark.parametrize("is_time_first", [True, False])
def test_the_first_reason_counts(signals: StopSignal, clock: Clock, is_time_first: bool) -> None:
    stop = RunStop(signals, TimeLimit(2.0, clock))
    if is_time_first:
        clock.now_s += 7200.0
        assert stop()
    signal.raise_signal(signal.SIGINT)
    clock.now_s += 7200.0
    assert stop()
    assert stop.is_time_over == is_time_first
    assert stop.exit_code is (ExitCode.SIGTERM if is_time_first else ExitCode.SIGINT)


def test_a_wish_for_a_checkpoint_pauses_and_does_not_stop(signals: StopSignal, clock: Clock) -> None:
    stop = RunStop(signals, TimeLimit(None, clock))
    signal.raise_signal(signal.SIGUSR1)
    assert (stop(), stop.pauses()) == (False, True)
    assert (stop.take_save_request(), stop.take_save_request()) == (True, False)
    assert not stop.pauses()
    assert stop.exit_code is ExitCode.OK
