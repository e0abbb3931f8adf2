"""What one rank wishes is what all do, from the moment at which all heard it."""

from __future__ import annotations

from pathlib import Path

from esper.leyline import ExitCode
from esper.runtime.host_parallel.agreed_stop import AgreedStop, Wish

from .copies import LocalSignal, local_stop


def test_a_signal_here_stops_nobody_until_all_heard_it() -> None:
    stop = AgreedStop(local_stop(LocalSignal(ExitCode.SIGTERM)), num_ranks=2)
    assert not stop()
    assert stop.wish == Wish(143, 0)
    stop.settle([Wish(0, 0), stop.wish])
    assert stop()
    assert stop.exit_code is ExitCode.SIGTERM
    assert str(stop.describe("e0001-b00002", Path("a"))).startswith(
        "stopped by a signal; saved e0001-b00002;"
    )
    follower = str(stop.describe_follower(Path("a")))
    assert "rank 0 saves this place and says whether it could" in follower
    assert follower.endswith("go on: esper launch --nproc-per-node 2 -- train --resume a")


def test_a_stop_stays_and_of_several_codes_the_highest_counts() -> None:
    stop = AgreedStop(local_stop(LocalSignal()))
    stop.settle([Wish(130, 0), Wish(143, 0)])
    stop.settle([Wish(0, 0), Wish(0, 0)])
    assert (stop(), stop.pauses(), stop.exit_code) == (True, True, ExitCode.SIGTERM)
    assert stop.reason == "by a signal to another rank, or the end of its time"
    assert not stop.is_time_over
    error = stop.describe(None, Path("a"))
    assert error.signal_exit_code is ExitCode.SIGTERM
    assert "could NOT be saved" in str(error)


def test_the_end_of_time_on_one_rank_is_a_stop_of_all() -> None:
    stop = AgreedStop(local_stop(LocalSignal(), max_hours=1e-12))
    assert stop.wish == Wish(143, 0)
    assert not stop.is_time_over
    stop.settle([stop.wish])
    assert stop.is_time_over


def test_a_wish_to_save_pauses_all_once() -> None:
    signal = LocalSignal(has_save_request=True)
    stop = AgreedStop(local_stop(signal))
    assert stop.wish == Wish(0, 1)
    assert stop.wish == Wish(0, 0)
    stop.settle([Wish(0, 0), Wish(0, 1)])
    assert (stop(), stop.pauses()) == (False, True)
    assert stop.take_save_request()
    assert not stop.take_save_request()
    assert not stop.pauses()
    assert stop.exit_code is ExitCode.OK
