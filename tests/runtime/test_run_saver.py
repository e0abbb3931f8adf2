"""Claims about how a run saves itself: what is told, when, and that no failure ends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch

from esper.leyline import CheckpointError, CheckpointFailed, CheckpointSaved, Event, JsonValue, Notice
from esper.nissa import EventHub
from esper.nissa.backends.memory import MemoryBackend
from esper.runtime.experiment import CheckpointConfig
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.run_saver import Place, RunSaver, Snapshot
from esper.runtime.training import assemble_training
from esper.tolaria import CheckpointStore, SavedCheckpoint, StateRecord
from runtime.learning import tiny_training

KIND = "host-run"


class Run:
    """Something that trains: one tensor, one list, both of which go on changing in place."""

    def __init__(self) -> None:
        self.epoch = 0
        self.weight = torch.zeros(2)
        self.losses: list[JsonValue] = []
        self.num_captures = 0

    def train(self) -> None:
        self.epoch += 1
        self.weight.add_(1.0)
        self.losses.append(float(self.epoch))

    def capture(self) -> Snapshot:
        self.num_captures += 1
        record = StateRecord(tensors={"w": self.weight.clone()}, state={"losses": self.losses})
        return Snapshot(record, "0" * 64)


class Bench:
    """A run, its saver, and what was told."""

    def __init__(self, root: Path, config: CheckpointConfig) -> None:
        self.run = Run()
        self.memory = MemoryBackend()
        self.hub = EventHub([self.memory], run_id="a")
        self.root = root
        self.saver = RunSaver(root, self.hub, config, kind=KIND)

    @property
    def events(self) -> list[Event]:
        return [record.event for record in self.memory.records]

    def save_later(self) -> None:
        self.saver.save_later(Place(self.run.epoch), self.run.capture)

    def save_now(self) -> str | None:
        return self.saver.save_now(Place(self.run.epoch), self.run.capture)


@contextmanager
def at_work(root: Path, config: CheckpointConfig | None = None) -> Iterator[Bench]:
    bench = Bench(root / "checkpoints", config or CheckpointConfig(keep=20))
    try:
        yield bench
    finally:
        bench.saver.close(bench.run.epoch)
        bench.hub.close()


def fail_saves(monkeypatch: pytest.MonkeyPatch, should_fail: Callable[[str], bool]) -> None:
    original = CheckpointStore.save

    def save(self: CheckpointStore, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        if should_fail(name):
            raise CheckpointError("the disk is full; it needs 9 bytes")
        return original(self, name, record, topology_hash=topology_hash)

    monkeypatch.setattr(CheckpointStore, "save", save)


def test_a_place_has_the_name_of_its_checkpoint() -> None:
    assert (Place(12, 34).name, Place(4, 0, 1).name) == ("e0012-b00034", "e0004-b00000-r1")


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_every_save_is_told_and_holds_the_state_of_its_place(tmp_path: Path, is_asynchronous: bool) -> None:
    config = CheckpointConfig(keep=20, is_asynchronous=is_asynchronous)
    with at_work(tmp_path, config) as bench:
        for _ in range(3):
            bench.run.train()
            bench.hub.emit(Notice(epoch=bench.run.epoch, text="trained"))
            bench.save_now()
            bench.run.train()
            bench.save_later()
        bench.saver.close(bench.run.epoch)
        names = [event.name for event in bench.events if isinstance(event, CheckpointSaved)]
        assert names == [f"e{epoch:04d}-b00000" for epoch in range(1, 7)]
        assert tuple(reversed(names)) == bench.saver.names
    with at_work(tmp_path) as resumed:
        record = resumed.saver.load().record
        assert torch.equal(record.tensors["w"], torch.full((2,), 6.0))
        assert record.state["losses"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_what_is_saved_beside_training_is_the_state_of_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_save, original = threading.Event(), CheckpointStore.save

    def save(self: CheckpointStore, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        assert may_save.wait(timeout=60.0)
        return original(self, name, record, topology_hash=topology_hash)

    monkeypatch.setattr(CheckpointStore, "save", save)
    with at_work(tmp_path) as bench:
        bench.run.train()
        bench.save_later()
        bench.run.train()
        bench.saver.tell(bench.run.epoch)
        assert bench.events == [], "nothing is told before it is on the disk"
        may_save.set()
        bench.saver.close(bench.run.epoch)
        (event,) = bench.events
        assert isinstance(event, CheckpointSaved)
        assert (event.name, event.epoch) == ("e0001-b00000", 2)
        record = bench.saver.load().record
        assert torch.equal(record.tensors["w"], torch.ones(2))
        assert record.state["losses"] == [1.0]


def test_a_checkpoint_knows_the_last_event_before_it(tmp_path: Path) -> None:
    with at_work(tmp_path) as bench:
        for text in ("a", "b", "c"):
            bench.hub.emit(Notice(epoch=0, text=text))
        bench.save_now()
        assert bench.saver.load().record.state["last_seq"] == 2


def test_a_place_that_is_saved_or_on_its_way_is_not_saved_again(tmp_path: Path) -> None:
    with at_work(tmp_path) as bench:
        bench.run.train()
        bench.save_later()
        bench.save_later()
        assert bench.save_now() == bench.save_now() == "e0001-b00000"
        assert bench.run.num_captures == 1
        assert [type(event) for event in bench.events] == [CheckpointSaved]
    with at_work(tmp_path) as resumed:
        resumed.saver.load()
        resumed.run.train()
        assert resumed.save_now() == "e0001-b00000"
        assert (resumed.run.num_captures, resumed.events) == (0, [])


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_a_save_that_fails_is_told_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asynchronous: bool
) -> None:
    fail_saves(monkeypatch, lambda name: name < "e0003")
    with at_work(tmp_path, CheckpointConfig(is_asynchronous=is_asynchronous)) as bench:
        for _ in range(3):
            bench.run.train()
            bench.save_later()
        assert bench.save_now() == "e0003-b00000"
        failures = [event for event in bench.events if isinstance(event, CheckpointFailed)]
        assert [event.num_failures for event in failures] == list(range(1, len(failures) + 1))
        # Training may be faster than the first save: a later one that gave way is then told before it.
        errors = {event.name: event.error for event in failures}
        assert "it needs 9 bytes" in errors["e0001-b00000"]
        assert bench.saver.names == ("e0003-b00000",)


def test_a_save_beside_training_that_failed_is_tried_again_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def is_first(name: str) -> bool:
        attempts.append(name)
        return len(attempts) == 1

    fail_saves(monkeypatch, is_first)
    with at_work(tmp_path) as bench:
        bench.run.train()
        bench.save_later()
        assert bench.save_now() == "e0001-b00000"
        assert [type(event) for event in bench.events] == [CheckpointFailed, CheckpointSaved]


def test_a_last_save_that_fails_gives_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_saves(monkeypatch, lambda _: True)
    with at_work(tmp_path) as bench:
        assert bench.save_now() is None


def test_a_state_that_cannot_be_saved_is_told_and_ends_nothing(tmp_path: Path) -> None:
    with at_work(tmp_path) as bench:
        bench.run.losses.append(float("nan"))
        assert bench.save_now() is None
        (event,) = bench.events
        assert isinstance(event, CheckpointFailed)
        assert "losses[0] is nan" in event.error
        bench.run.losses.clear()
        assert bench.save_now() == "e0000-b00000"


def test_damaged_checkpoints_are_passed_over_by_name(tmp_path: Path) -> None:
    with at_work(tmp_path) as bench:
        for _ in range(2):
            bench.run.train()
            bench.save_now()
        (bench.root / "e0002-b00000" / "state.json").unlink()
    with at_work(tmp_path) as resumed:
        assert resumed.saver.load().name == "e0001-b00000"
        (passed_over,) = resumed.saver.passed_over
        assert passed_over.startswith("e0002-b00000/state.json")


def test_what_an_interrupted_attempt_left_is_removed(tmp_path: Path) -> None:
    with at_work(tmp_path) as bench:
        bench.save_now()
        (bench.root / ".tmp-e0001-b00000-0").mkdir()
        bench.saver.clean()
        assert sorted(path.name for path in bench.root.iterdir()) == ["LATEST", "e0000-b00000"]


@pytest.mark.slow
def test_the_saved_state_of_a_training_does_not_change_when_training_goes_on() -> None:
    trainer, steps = assemble_training(tiny_training(), LoneRank()).trainer, count(1)
    trainer.run_round(lambda: next(steps) == 5)
    record = trainer.state()
    tensors, state = {name: x.clone() for name, x in record.tensors.items()}, json.dumps(record.state)
    trainer.run_round()
    trainer.run_round()
    assert json.dumps(record.state) == state
    assert all(torch.equal(x.nan_to_num(), record.tensors[name].nan_to_num()) for name, x in tensors.items())
