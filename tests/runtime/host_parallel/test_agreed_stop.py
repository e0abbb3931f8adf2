"""What one rank wishes is what all do, from the moment at which all heard it."""

from __future__ import annotations

from esper.leyline import ExitCode
from esper.runtime.host_parallel.agreed_stop import AgreedStop, Wish

from .copies import LocalSignal


def test_a_signal_here_stops_nobody_until_all_heard_it() -> None:
    signal = LocalSignal(ExitCode.SIGTERM)
    stop = AgreedStop(signal)
    assert not stop()
    assert stop.wish == Wish(143, 0)
    stop.settle([Wish(0, 0), stop.wish])
    assert stop()
    assert stop.exit_code is ExitCode.SIGTERM


def test_a_stop_stays_and_of_several_codes_the_highest_counts() -> None:
    stop = AgreedStop(LocalSignal())
    stop.settle([Wish(130, 0), Wish(143, 0)])
    stop.settle([Wish(0, 0), Wish(0, 0)])
    assert (stop(), stop.pauses(), stop.exit_code) == (True, True, ExitCode.SIGTERM)


def test_a_wish_to_save_pauses_all_once() -> None:
    asked = [True, False]
    stop = AgreedStop(LocalSignal(), lambda: asked.pop(0))
    assert stop.wish == Wish(0, 1)
    assert stop.wish == Wish(0, 0)
    stop.settle([Wish(0, 0), Wish(0, 1)])
    assert (stop(), stop.pauses()) == (False, True)
    assert stop.take_save_request()
    assert not stop.take_save_request()
    assert not stop.pauses()
    assert stop.exit_code is ExitCode.OK
