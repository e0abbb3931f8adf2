from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.runtime.signal_relay import SignalRelay, path_of_pid, read_own_child

_SAYS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda number, frame: print(number, flush=True))
signal.signal(signal.SIGINT, lambda number, frame: print(number, flush=True))
signal.signal(signal.SIGUSR1, lambda number, frame: print(number, flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session and says which signals it gets."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAYS], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Handlers as in a shell's foreground: a suite in the background inherits ignored signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    previous = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, previous, strict=True):
        signal.signal(number, handler)


def read_line(process: subprocess.Popen[str]) -> str:
    """Return what the child says next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_signals_reach_a_rank_in_their_order_also_one_that_starts_later(
    child: subprocess.Popen[str], tmp_path: Path
) -> None:
    with SignalRelay(tmp_path, num_ranks=2, patience_s=60.0) as relay:
        signal.raise_signal(signal.SIGTERM)
        assert relay.requested == signal.SIGTERM
        path_of_pid(tmp_path, 1).write_text(f"{child.pid}\n", encoding="ascii")
        assert read_line(child) == str(int(signal.SIGTERM))
        signal.raise_signal(signal.SIGINT)
        assert read_line(child) == str(int(signal.SIGINT))
    assert relay.requested == signal.SIGTERM


def test_a_wish_to_save_is_handed_on_and_ends_nothing(child: subprocess.Popen[str], tmp_path: Path) -> None:
    path_of_pid(tmp_path, 0).write_text(str(child.pid), encoding="ascii")
    with SignalRelay(tmp_path, num_ranks=1, patience_s=0.1) as relay:
        signal.raise_signal(signal.SIGUSR1)
        assert read_line(child) == str(int(signal.SIGUSR1))
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        assert relay.requested == 0


def test_a_rank_that_does_not_end_in_time_is_killed(child: subprocess.Popen[str], tmp_path: Path) -> None:
    path_of_pid(tmp_path, 0).write_text(str(child.pid), encoding="ascii")
    with SignalRelay(tmp_path, num_ranks=1, patience_s=0.1):
        signal.raise_signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGKILL


def test_handlers_are_put_back_and_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with SignalRelay(tmp_path, num_ranks=1, patience_s=1.0) as relay:
        signal.raise_signal(signal.SIGHUP)
        assert relay.requested == 0
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "1", "9" * 30, "parent", "self"])
def test_only_a_running_child_is_ever_signalled(text: str, tmp_path: Path) -> None:
    path = path_of_pid(tmp_path, 0)
    assert read_own_child(path) is None
    numbers = {"parent": os.getppid(), "self": os.getpid()}
    path.write_text(str(numbers.get(text, text)), encoding="ascii")
    assert read_own_child(path) is None


def test_a_child_counts_until_it_has_ended(child: subprocess.Popen[str], tmp_path: Path) -> None:
    path = path_of_pid(tmp_path, 0)
    path.write_text(str(child.pid), encoding="ascii")
    assert read_own_child(path) == child.pid
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_own_child(path) is None
    child.wait()
    assert read_own_child(path) is None
