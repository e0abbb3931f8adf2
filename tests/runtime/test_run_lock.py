from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.leyline import RunDirectoryError
from esper.runtime import run_lock
from esper.runtime.run_lock import LockHolder, RunLock, read_holder

_HOLD = """
import sys
from pathlib import Path
from esper.runtime.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@contextmanager
def _other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_lock_names_its_holder_and_is_empty_afterwards(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    assert read_holder(tmp_path / "lock") == LockHolder.current()
    assert LockHolder.current().is_alive()
    lock.release()
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b""
    RunLock(tmp_path / "lock").release()


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "lock")
    with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} on "):
        RunLock(tmp_path / "lock")
    lock.release()


@pytest.mark.battery("T13")
def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _other_process(path) as other:
        with pytest.raises(RunDirectoryError, match=f"{tmp_path} is in use by process {other.pid} on "):
            RunLock(path)
        other.communicate("")
    RunLock(path).release()


@pytest.mark.battery("T13")
def test_the_lock_of_a_killed_process_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _other_process(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    holder = read_holder(path)
    assert holder is not None
    assert holder.pid == other.pid
    assert not holder.is_alive()
    lock = RunLock(path)
    assert read_holder(path) == LockHolder.current()
    lock.release()


def test_a_reused_pid_is_not_the_holder() -> None:
    assert not dataclasses.replace(LockHolder.current(), start_ticks=1).is_alive()


def test_a_holder_before_the_last_boot_is_dead_and_one_elsewhere_counts_as_alive() -> None:
    here = dataclasses.replace(LockHolder.current(), boot_id="another")
    assert not here.is_alive()
    assert dataclasses.replace(here, host=here.host + "-elsewhere").is_alive()


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbid)
    assert LockHolder.current().is_alive()


def test_without_proc_a_live_pid_is_the_holder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_lock, "_BOOT_ID", tmp_path / "missing")
    monkeypatch.setattr(run_lock, "_read_start_ticks", lambda pid: 0)
    holder = LockHolder.current()
    assert (holder.boot_id, holder.start_ticks) == ("", 0)
    assert holder.is_alive()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 4000,
        "{}",
        json.dumps({"pid": -1, "boot_id": "", "start_ticks": 0, "host": ""}),
        json.dumps({"pid": 2**40, "boot_id": "", "start_ticks": 0, "host": ""}),
        json.dumps({"pid": 1, "boot_id": 3, "start_ticks": 0, "host": ""}),
    ],
)
def test_a_foreign_lock_file_names_nobody(text: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(text, encoding="utf-8")
    assert read_holder(tmp_path / "lock") is None


def test_a_missing_lock_file_names_nobody(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "lock") is None


def test_a_lock_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be opened"):
        RunLock(tmp_path / "missing" / "lock")


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="cannot be opened"):
        RunLock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RunDirectoryError, match="cannot lock files"):
        RunLock(tmp_path / "lock")


def test_a_full_disk_is_refused_and_the_lock_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(RunDirectoryError, match="No space left"):
            RunLock(tmp_path / "lock")
    RunLock(tmp_path / "lock").release()
