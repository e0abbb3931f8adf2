"""A checkpoint survives every fault of the disk and every kill; covers tolaria/checkpoint/store.py."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from esper.leyline import CheckpointError
from esper.tolaria.checkpoint import checkpoint_name
from tolaria.checkpoint.faults import (
    TOPOLOGY,
    FailAt,
    assert_is_record,
    build_record,
    build_store,
    run_program,
    save_epochs,
)

pytestmark = pytest.mark.fault
E3 = checkpoint_name(3, 0)


def count_operations(root: Path) -> int:
    """Count the file operations of saving epoch 3 over epochs 1 and 2, a purge included."""
    save_epochs(root, 1, 2)
    hook = FailAt(-1)
    build_store(root, before=hook).save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert set(hook.calls) == {"mkdir", "open", "write", "fsync", "rename", "replace", "rmtree"}
    return len(hook.calls)


def open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


@pytest.mark.battery("T03")
@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_disk_fault_at_any_operation_leaves_a_valid_checkpoint(
    tmp_path: Path, is_lasting: bool, battery: BatteryRecord
) -> None:
    for at in range(count_operations(tmp_path / "count")):
        root = tmp_path / str(at)
        save_epochs(root, 1, 2)
        before = open_files()
        store = build_store(root, before=FailAt(at, is_lasting=is_lasting))
        message = ""
        try:
            store.save(E3, build_record(3), topology_hash=TOPOLOGY)
        except CheckpointError as error:
            message = str(error)
        is_saved = message == ""
        assert is_saved or (str(root / E3) in message and "earlier checkpoints are kept" in message)
        assert open_files() == before
        assert not is_saved or store.housekeeping_errors, "a fault is never silent"
        loaded = build_store(root).load()
        assert loaded.rejected == ()
        assert_is_record(loaded.record, int(loaded.name[1:5]))
        assert loaded.name == E3 or not is_saved
        # Training goes on: once the disk is well again, the next save works and leaves nothing behind.
        after = build_store(root)
        after.clean()
        after.save(checkpoint_name(4, 0), build_record(4), topology_hash=TOPOLOGY)
        assert_is_record(after.load().record, 4)
        assert not [entry for entry in root.iterdir() if entry.name.startswith(".")]
        battery.record()


@pytest.mark.battery("T05")
def test_a_failed_save_can_be_repeated_by_the_same_store(tmp_path: Path) -> None:
    save_epochs(tmp_path, 1, 2)
    store = build_store(tmp_path, before=FailAt(3))
    with pytest.raises(CheckpointError, match="No space left on device; it needs"):
        store.save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["LATEST", "e0001-b00000", "e0002-b00000"]
    store.save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert_is_record(store.load().record, 3)


@pytest.mark.battery("T04")
@pytest.mark.slow
def test_a_process_that_dies_at_any_operation_leaves_a_valid_checkpoint(
    tmp_path: Path, battery: BatteryRecord
) -> None:
    num_operations = count_operations(tmp_path / "count")
    for at in range(num_operations):
        save_epochs(tmp_path / str(at), 1, 2)
    said, errors = run_program("die_in_children", tmp_path, num_operations).communicate(timeout=120)
    assert said.split() == ["9"] * num_operations, errors
    for at in range(num_operations):
        root = tmp_path / str(at)
        before = open_files()
        store = build_store(root)
        store.clean()
        loaded = store.load()
        assert loaded.rejected == ()
        assert_is_record(loaded.record, int(loaded.name[1:5]))
        assert not [entry for entry in root.iterdir() if entry.name.startswith(".")]
        assert open_files() == before
        battery.record()


def kill_in_a_save_loop(root: Path, function: str, num_kills: int, battery: BatteryRecord) -> None:
    """Kill a process at random moments of saving; check each time what it leaves behind."""
    generator = random.Random(5)
    acknowledged = -1
    program = run_program("save_in_children", root, function)
    assert program.stdin is not None
    assert program.stdout is not None
    for _ in range(num_kills):
        program.stdin.write("go\n")
        program.stdin.flush()
        victim = int(program.stdout.readline().removeprefix("pid "))
        for _ in range(generator.randrange(1, 6)):
            acknowledged = int(program.stdout.readline())
        # The kill lands somewhere in the save that is running now.
        deadline = time.monotonic() + generator.uniform(0.0, 0.02)
        while time.monotonic() < deadline:
            pass
        os.kill(victim, signal.SIGKILL)
        while (line := program.stdout.readline()) != "dead\n":
            acknowledged = int(line)
        begin = time.monotonic()
        loaded = build_store(root).load()
        assert loaded.rejected == ()
        assert int(loaded.name[1:5]) >= acknowledged
        assert_is_record(loaded.record, int(loaded.name[1:5]))
        battery.record(worst_s=time.monotonic() - begin)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors


@pytest.mark.battery("T01")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "num_kills"), [("save_forever", 50), ("save_forever_in_background", 25)]
)
def test_kills_in_a_save_loop_lose_no_acknowledged_checkpoint(
    tmp_path: Path, function: str, num_kills: int, battery: BatteryRecord
) -> None:
    kill_in_a_save_loop(tmp_path, function, num_kills, battery)


@pytest.mark.battery("T01")
@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("function", ["save_forever", "save_forever_in_background"])
def test_three_hundred_kills_in_a_save_loop_lose_no_acknowledged_checkpoint(
    tmp_path: Path, function: str, battery: BatteryRecord
) -> None:
    kill_in_a_save_loop(tmp_path, function, 300, battery)


@pytest.mark.battery("T05")
@pytest.mark.slow
def test_a_file_size_limit_leaves_no_partial_checkpoint(tmp_path: Path) -> None:
    save_epochs(tmp_path, 1, 2)
    process = run_program("save_with_small_files", tmp_path, 3, 300)
    message, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "File too large; it needs" in message
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["LATEST", "e0001-b00000", "e0002-b00000"]
    assert_is_record(build_store(tmp_path).load().record, 2)
    build_store(tmp_path).save(E3, build_record(3), topology_hash=TOPOLOGY)


@pytest.mark.battery("T05")
def test_a_full_disk_names_the_bytes_needed_and_the_same_store_saves_again_with_space(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(CheckpointError, match=r"File too large; it needs \d+ bytes"):
            store.save(E3, build_record(3), topology_hash=TOPOLOGY)
        assert_is_record(store.load().record, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert_is_record(store.load().record, 3)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]
