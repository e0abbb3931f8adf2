"""Claims about saving beside training: one in flight, two in memory, the newest first, no error lost."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from esper.leyline import CheckpointError
from esper.tolaria.checkpoint import (
    BackgroundWriter,
    CheckpointStore,
    FileOps,
    SaveRequest,
    StateRecord,
    attempt_save,
    checkpoint_name,
    detach_record,
)
from esper.tolaria.checkpoint.background import REPLACED
from tolaria.checkpoint.faults import (
    TOPOLOGY,
    FailAt,
    assert_is_record,
    build_record,
    build_store,
    fail_with_full_disk,
)

TIMEOUT_S = 60.0


class SlowDisk:
    """A hook whose first operation of every save waits until it is let on; counts what is in flight."""

    def __init__(self) -> None:
        self.has_begun = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)
        self.in_flight: list[int] = []
        """How many temporary directories there were whenever a save began."""

    def __call__(self, operation: str, path: Path) -> None:
        if operation == "mkdir" and path.name.startswith(".tmp-"):
            self.in_flight.append(1 + len(list(path.parent.glob(".tmp-*"))))
            self.has_begun.release()
            assert self.may_go_on.acquire(timeout=TIMEOUT_S)


def build_request(epoch: int) -> SaveRequest:
    return SaveRequest(name=checkpoint_name(epoch, 0), record=build_record(epoch), topology_hash=TOPOLOGY)


@contextmanager
def writing(root: Path, disk: SlowDisk) -> Iterator[tuple[BackgroundWriter, CheckpointStore]]:
    """A writer on a slow disk, which is let on for ever in the end, so that no failing test hangs."""
    root.mkdir(exist_ok=True)
    store = build_store(root, before=disk)
    writer = BackgroundWriter(store)
    try:
        yield writer, store
    finally:
        disk.may_go_on.release(1000)
        writer.close()


def test_a_save_is_on_the_disk_after_a_flush_and_told_once(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    writer = BackgroundWriter(store)
    assert writer.collect() == ()
    writer.flush()
    writer.submit(build_request(1))
    writer.flush()
    (outcome,) = writer.collect()
    assert outcome.saved is not None
    assert (outcome.name, outcome.error, outcome.saved.path) == ("e0001-b00000", "", tmp_path / outcome.name)
    assert writer.collect() == ()
    assert_is_record(store.load().record, 1)
    writer.close()
    writer.close()


@pytest.mark.battery("T15")
def test_submitting_does_not_wait_for_the_disk_and_the_record_is_that_of_its_moment(tmp_path: Path) -> None:
    disk, weight = SlowDisk(), torch.zeros(4)
    with writing(tmp_path, disk) as (writer, store):
        record = detach_record(StateRecord(tensors={"w": weight.clone()}, state={"epoch": 1}))
        writer.submit(SaveRequest(name=checkpoint_name(1, 0), record=record, topology_hash=TOPOLOGY))
        assert disk.has_begun.acquire(timeout=TIMEOUT_S)
        weight.add_(1.0)  # training goes on while the disk is busy
        assert writer.collect() == ()
        disk.may_go_on.release()
        writer.flush()
        assert torch.equal(store.load().record.tensors["w"], torch.zeros(4))


@pytest.mark.battery("T15")
def test_two_saves_are_never_in_flight_and_the_newest_takes_the_place_of_the_one_that_waits(
    tmp_path: Path,
) -> None:
    disk = SlowDisk()
    with writing(tmp_path, disk) as (writer, store):
        writer.submit(build_request(1))
        assert disk.has_begun.acquire(timeout=TIMEOUT_S)
        for epoch in (2, 3, 4):
            writer.submit(build_request(epoch))
        disk.may_go_on.release(10)
        writer.flush()
        outcomes = {outcome.name: outcome for outcome in writer.collect()}
        assert [name for name, outcome in outcomes.items() if outcome.error == REPLACED] == [
            "e0002-b00000",
            "e0003-b00000",
        ]
        assert store.names() == ("e0004-b00000", "e0001-b00000")
        assert_is_record(store.load().record, 4)
    assert disk.in_flight == [1, 1]


@pytest.mark.battery("T15")
def test_at_most_two_snapshots_are_in_memory_whatever_the_disk_does(tmp_path: Path) -> None:
    disk = SlowDisk()
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []
    with writing(tmp_path, disk) as (writer, _):
        for epoch in range(1, 9):
            writer.make_room()
            tensor = torch.full((1000,), float(epoch))
            alive.append(weakref.ref(tensor))
            counts.append(sum(ref() is not None for ref in alive))
            record = StateRecord(tensors={"w": tensor}, state={"epoch": epoch})
            del tensor
            writer.submit(SaveRequest(name=checkpoint_name(epoch, 0), record=record, topology_hash=TOPOLOGY))
            del record
            if epoch % 3 == 1:  # a save begins while others come
                assert disk.has_begun.acquire(timeout=TIMEOUT_S)
            if epoch % 3 == 0:
                disk.may_go_on.release()
        disk.may_go_on.release(10)
        writer.flush()
        assert max(counts) == 2
        assert [ref() for ref in alive] == [None] * 8, "a snapshot that is saved is let go"
    assert set(disk.in_flight) == {1}


def test_a_full_disk_is_an_outcome_and_the_next_save_works(tmp_path: Path) -> None:
    is_full = True

    def before(operation: str, path: Path) -> None:
        if is_full and operation == "write":
            fail_with_full_disk()

    store = build_store(tmp_path, before=before)
    writer = BackgroundWriter(store)
    writer.submit(build_request(1))
    writer.flush()
    (failed,) = writer.collect()
    assert failed.saved is None
    assert str(tmp_path / "e0001-b00000") in failed.error
    assert "No space left on device; it needs" in failed.error
    is_full = False
    writer.submit(build_request(1))
    writer.close()
    (saved,) = writer.collect()
    assert saved.saved is not None
    assert_is_record(store.load().record, 1)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_is_an_outcome(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        raise error

    outcome = attempt_save(build_store(tmp_path, before=FailAt(0, fault=fail)), build_request(1))
    assert outcome.saved is None
    assert type(error).__name__ in outcome.error


def test_a_programmers_error_in_the_thread_is_raised_to_the_caller(tmp_path: Path) -> None:
    def fail() -> None:
        raise AssertionError("a bug")

    writer = BackgroundWriter(build_store(tmp_path, before=FailAt(0, fault=fail)))
    writer.submit(build_request(1))
    with pytest.raises(AssertionError, match="a bug"):
        writer.flush()
    with pytest.raises(AssertionError, match="a bug"):
        writer.collect()
    writer.close()


def test_closing_waits_for_what_runs_and_for_what_waits(tmp_path: Path) -> None:
    disk = SlowDisk()
    with writing(tmp_path, disk) as (writer, store):
        writer.submit(build_request(1))
        assert disk.has_begun.acquire(timeout=TIMEOUT_S)
        writer.submit(build_request(2))
        disk.may_go_on.release(10)
        writer.close()
        assert [outcome.name for outcome in writer.collect()] == ["e0001-b00000", "e0002-b00000"]
        assert store.names() == ("e0002-b00000", "e0001-b00000")


def test_a_detached_record_shares_no_plain_data_and_copies_no_tensor_of_the_cpu() -> None:
    losses: list[float] = [1.0]
    weight = torch.ones(3, requires_grad=True)
    record = detach_record(StateRecord(tensors={"w": weight}, state={"tracker": {"losses": losses}}))
    losses.append(2.0)
    assert record.state == {"tracker": {"losses": [1.0]}}
    assert record.tensors["w"].data_ptr() == weight.data_ptr()
    assert not record.tensors["w"].requires_grad


def test_plain_data_that_cannot_be_saved_is_refused_with_its_path() -> None:
    state = {"policy": {"memory": {1, 2}}}
    with pytest.raises(CheckpointError, match=r"record\.state\.policy\.memory is a set"):
        detach_record(StateRecord(tensors={}, state=state))  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_detached_record_is_off_the_device() -> None:
    record = detach_record(StateRecord(tensors={"w": torch.ones(3, device="cuda")}, state={}))
    assert record.tensors["w"].device.type == "cpu"


def test_the_hook_of_a_store_sees_what_the_thread_writes(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []
    ops = FileOps(before=lambda operation, _: calls.append((threading.current_thread().name, operation)))
    store = CheckpointStore(tmp_path, kind="run", esper_version="0.1.0", file_ops=ops)
    writer = BackgroundWriter(store)
    writer.submit(build_request(1))
    writer.close()
    assert {name for name, _ in calls} == {"checkpoint-writer_0"}
    assert "fsync" in {operation for _, operation in calls}
