from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from esper.leyline import ExitCode
from esper.runtime.shutdown import StopSignal, exit_code_of

_BLOCKED = """
import os
from esper.runtime.shutdown import StopSignal
with StopSignal(on_first=lambda number: print("first", number, flush=True)):
    print("ready", flush=True)
    os.read(0, 1)
"""

_LOOP = """
import select, sys
from esper.runtime.shutdown import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    while not stop():
        select.select([], [], [], 0.01)
print("saved", flush=True)
sys.exit(int(stop.exit_code))
"""


def _start(program: str) -> subprocess.Popen[str]:
    # A suite started in the background inherits ignored signals, and an ignored one stays ignored.
    reset = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.signal(s.SIGHUP, s.SIG_DFL)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", reset + program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGUSR2, 143)],
)
def test_a_stop_signal_sets_the_flag_and_nothing_else(number: signal.Signals, code: int) -> None:
    previous = signal.signal(number, signal.SIG_DFL)
    try:
        with StopSignal() as stop:
            assert (stop.requested, stop(), stop.exit_code) == (0, False, ExitCode.OK)
            signal.raise_signal(number)
            assert (stop.requested, stop()) == (number, True)
            assert stop.exit_code == code == exit_code_of(number)
        assert stop.requested == number
    finally:
        signal.signal(number, previous)


def test_the_first_signal_is_kept_and_reported_once() -> None:
    reported: list[int] = []
    is_reported = threading.Event()

    def report(number: int) -> None:
        reported.append(number)
        is_reported.set()

    with StopSignal(on_first=report) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert is_reported.wait(timeout=30)
    assert stop.requested == signal.SIGTERM
    assert reported == [signal.SIGTERM]


def test_everything_is_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup_before = signal.set_wakeup_fd(write_end)
    before = [signal.getsignal(number) for number in numbers]
    threads = set(threading.enumerate())
    try:
        with StopSignal():
            assert [signal.getsignal(number) for number in numbers] != before
        assert [signal.getsignal(number) for number in numbers] == before
        assert set(threading.enumerate()) <= threads
    finally:
        assert signal.set_wakeup_fd(wakeup_before) == write_end
        os.close(read_end)
        os.close(write_end)


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_other_signals_are_not_taken_for_a_stop() -> None:
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert not stop()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_sigusr1_asks_for_a_checkpoint_and_for_no_end() -> None:
    with StopSignal() as stop:
        assert not stop.has_save_request
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert (stop.has_save_request, stop(), stop.requested) == (True, False, 0)
        assert (stop.take_save_request(), stop.take_save_request()) == (True, False)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.take_save_request(), "a request that comes while the first is met asks for another one"


def test_a_handler_set_outside_python_becomes_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    previous = signal.getsignal(signal.SIGHUP)
    try:
        with StopSignal() as stop:
            monkeypatch.setitem(stop._previous, signal.SIGHUP, None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_it_is_used_once() -> None:
    stop = StopSignal()
    with stop:
        pass
    with pytest.raises(RuntimeError, match="used once"):
        stop.__enter__()


def test_another_thread_is_refused() -> None:
    caught: list[str] = []

    def enter() -> None:
        try:
            StopSignal().__enter__()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert caught == ["StopSignal works in the main thread only: Python delivers signals there"]


def test_an_unwatched_signal_has_no_exit_code() -> None:
    assert exit_code_of(0) == ExitCode.OK
    with pytest.raises(KeyError):
        exit_code_of(signal.SIGUSR1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_process_leaves_its_loop_and_saves(number: signal.Signals, code: int) -> None:
    with _start(_LOOP) as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("saved\n", code)


@pytest.mark.slow
def test_a_second_interrupt_ends_a_blocked_process_at_once() -> None:
    with _start(_BLOCKED) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == f"first {int(signal.SIGINT)}\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
