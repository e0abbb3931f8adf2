"""How a run in progress is stopped, saved on request, and goes on; covers runtime/run.py."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from esper.leyline import (
    CheckpointFailed,
    CheckpointSaved,
    Event,
    ExitCode,
    InterruptedRunError,
    Notice,
    RunFinished,
)
from esper.nissa import effective_log, read_run
from esper.runtime import run as run_module
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.run import run_experiment
from esper.runtime.run_stop import TimeLimit
from esper.tolaria import CheckpointStore, SavedCheckpoint, StateRecord
from esper.tolaria.checkpoint import FileOps
from esper.tolaria.epoch import EpochRunner
from runtime.test_run import tiny

KIND = run_module.CHECKPOINT_KIND
BATCHES = 17
"""Batches in an epoch of these runs: 1,077 rows of digits, 64 at a time."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run_experiment(tiny(), run_dir=run_dir, provenance={})
    return run_dir


def saving(config: ExperimentConfig, **changes: object) -> ExperimentConfig:
    return replace(config, checkpoint=replace(config.checkpoint, **changes))  # type: ignore[arg-type]


def events_of(run_dir: Path) -> list[Event]:
    return [record.event for record in read_run(run_dir).records]


@contextmanager
def after_batch(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something once, after the n-th batch (from 1) of what runs meanwhile."""
    batches = count(1)
    original = EpochRunner.train_batch

    def train_batch(self: EpochRunner, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        if next(batches) == number:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochRunner, "train_batch", train_batch)
        yield


def name_after(batch: int) -> str:
    """The checkpoint of the boundary after the n-th batch; an epoch ends once it is measured, too."""
    epoch, rest = divmod(batch - 1, BATCHES)
    return f"e{epoch:04d}-b{rest + 1:05d}"


def send(number: int) -> None:
    os.kill(os.getpid(), number)


# ------------------------------------------------------------------ stop signals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143), (signal.SIGUSR2, 143)],
)
def test_a_run_stopped_at_a_random_batch_resumes_bit_for_bit(
    whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    generator = random.Random(int(number))
    previous = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and stays so
    try:
        for _ in range(2):
            batch = generator.randrange(1, 8 * BATCHES)
            run_dir = tmp_path / str(batch)
            with after_batch(batch, partial(send, number)), pytest.raises(InterruptedRunError) as stopped:
                run_experiment(tiny(), run_dir=run_dir, provenance={})
            assert stopped.value.signal_exit_code == code
            assert f"stopped by a signal; saved {name_after(batch)}" in str(stopped.value)
            run_experiment(tiny(), run_dir=run_dir, provenance={}, resume=True)
            assert effective_log(run_dir) == effective_log(whole)
    finally:
        signal.signal(number, previous)


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_a_stop_while_a_checkpoint_is_being_written_finds_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asynchronous: bool
) -> None:
    original = CheckpointStore.save

    def save(self: CheckpointStore, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        signal.raise_signal(signal.SIGTERM)
        return original(self, name, record, topology_hash=topology_hash)

    monkeypatch.setattr(CheckpointStore, "save", save)
    config = saving(tiny(), is_asynchronous=is_asynchronous)
    with pytest.raises(InterruptedRunError, match="saved e000"):
        run_experiment(config, run_dir=tmp_path / "run", provenance={})
    events = events_of(tmp_path / "run")
    assert not [event for event in events if isinstance(event, CheckpointFailed)]
    assert isinstance(events[-1], RunFinished)


def test_a_stop_during_a_save_beside_training_waits_for_it_and_saves_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_save, original = threading.Event(), CheckpointStore.save

    def save(self: CheckpointStore, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        assert may_save.wait(timeout=60.0)
        return original(self, name, record, topology_hash=topology_hash)

    def stop() -> None:
        send(signal.SIGTERM)
        may_save.set()

    monkeypatch.setattr(CheckpointStore, "save", save)
    place = 3 * BATCHES + 5  # epoch 3 is saved beside the batches after it
    with after_batch(place, stop), pytest.raises(InterruptedRunError, match="saved e0003-b00005"):
        run_experiment(tiny(), run_dir=tmp_path / "run", provenance={})
    events = events_of(tmp_path / "run")
    assert [event.name for event in events if isinstance(event, CheckpointSaved)] == [
        "e0003-b00000",
        "e0003-b00005",
    ]


# ------------------------------------------------------------------ saving beside training


def test_saving_beside_training_and_waiting_for_it_give_the_same_log(whole: Path, tmp_path: Path) -> None:
    config = saving(tiny(), is_asynchronous=False)
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    assert effective_log(tmp_path / "run") == effective_log(whole)
    for run_dir in (whole, tmp_path / "run"):
        saved = [event for event in events_of(run_dir) if isinstance(event, CheckpointSaved)]
        assert [event.name for event in saved] == ["e0003-b00000", "e0006-b00000", "e0008-b00000"]


def test_on_a_disk_slower_than_the_run_every_checkpoint_is_that_of_its_place_and_nothing_waits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, in_flight = tmp_path / "run", []
    has_trained = threading.Event()
    original = FileOps.mkdir

    def mkdir(self: FileOps, path: Path) -> None:
        if path.name.startswith(".tmp-"):
            in_flight.append(1 + len(list(path.parent.glob(".tmp-*"))))
            assert has_trained.wait(timeout=60.0)  # the first save takes as long as the rest of the run
        original(self, path)

    monkeypatch.setattr(FileOps, "mkdir", mkdir)
    config = saving(tiny(), every_epochs=1, keep=20)
    with after_batch(8 * BATCHES, has_trained.set):
        run_experiment(config, run_dir=run_dir, provenance={})
    assert effective_log(run_dir) == effective_log(whole)
    assert set(in_flight) == {1}
    events = events_of(run_dir)
    saved = [event.name for event in events if isinstance(event, CheckpointSaved)]
    given_up = [event for event in events if isinstance(event, CheckpointFailed)]
    assert saved == ["e0001-b00000", "e0007-b00000", "e0008-b00000"]
    assert [event.name for event in given_up] == [f"e000{epoch}-b00000" for epoch in range(2, 7)]
    assert all("save less often" in event.error for event in given_up)
    monkeypatch.undo()
    run_experiment(saving(config, is_asynchronous=False), run_dir=tmp_path / "waited", provenance={})
    for name in saved:
        slow, waited = (_load(run, name) for run in (run_dir, tmp_path / "waited"))
        assert slow.state["run"] == waited.state["run"]
        assert slow.tensors.keys() == waited.tensors.keys()
        assert all(
            torch.equal(x.nan_to_num(), waited.tensors[key].nan_to_num()) for key, x in slow.tensors.items()
        )


def _load(run_dir: Path, name: str) -> StateRecord:
    return CheckpointStore(run_dir / "checkpoints", kind=KIND, esper_version="1").load(name).record


# ------------------------------------------------------------------ a checkpoint on request


@pytest.mark.parametrize("batch", [2 * BATCHES + 3, 2 * BATCHES])
def test_sigusr1_saves_at_the_next_boundary_and_the_run_goes_on_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path, batch: int
) -> None:
    run_dir = tmp_path / "run"
    with after_batch(batch, partial(send, signal.SIGUSR1)):
        run_experiment(saving(tiny(), keep=20), run_dir=run_dir, provenance={})
    assert effective_log(run_dir) == effective_log(whole)
    saved = [event.name for event in events_of(run_dir) if isinstance(event, CheckpointSaved)]
    assert saved == [name_after(batch), "e0003-b00000", "e0006-b00000", "e0008-b00000"]


def test_sigusr1_in_the_last_epoch_leaves_the_last_checkpoint_to_the_end(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with after_batch(8 * BATCHES, partial(send, signal.SIGUSR1)):
        run_experiment(tiny(), run_dir=run_dir, provenance={})
    assert effective_log(run_dir) == effective_log(whole)
    assert not [event for event in events_of(run_dir) if isinstance(event, CheckpointFailed)]


# ------------------------------------------------------------------ the end of its time


def test_a_run_whose_time_is_over_saves_and_resumes_to_the_end_bit_for_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, config = tmp_path / "run", saving(tiny(), max_hours=60.0 / 3600.0)

    def tick(ticks: count[int]) -> float:
        return float(next(ticks))  # one second from question to question

    monkeypatch.setattr(run_module, "TimeLimit", lambda hours: TimeLimit(hours, partial(tick, count())))
    for is_resumed in (False, True):
        with pytest.raises(
            InterruptedRunError, match=r"hours \(checkpoint.max_hours\); saved e000"
        ) as stopped:
            run_experiment(config, run_dir=run_dir, provenance={}, resume=is_resumed)
        assert stopped.value.signal_exit_code is ExitCode.SIGTERM
        *_, notice, end = events_of(run_dir)
        assert isinstance(notice, Notice)
        assert "checkpoint.max_hours" in notice.text
        assert isinstance(end, RunFinished)
        assert end.reason == "interrupted"
    run_experiment(config, run_dir=run_dir, provenance={}, resume=True)
    assert effective_log(run_dir) == effective_log(whole)


# ------------------------------------------------------------------ a disk that is full for a while


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_a_disk_that_is_full_for_a_while_costs_the_checkpoints_of_that_while_and_nothing_else(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asynchronous: bool
) -> None:
    run_dir, original = tmp_path / "run", FileOps.write

    def write(self: FileOps, file: io.FileIO, data: bytes) -> None:
        if "e0003-" in str(file.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, file, data)

    monkeypatch.setattr(FileOps, "write", write)
    run_experiment(saving(tiny(), is_asynchronous=is_asynchronous), run_dir=run_dir, provenance={})
    assert effective_log(run_dir) == effective_log(whole)
    events = events_of(run_dir)
    (failed,) = [event for event in events if isinstance(event, CheckpointFailed)]
    assert (failed.name, failed.num_failures) == ("e0003-b00000", 1)
    for text in (str(run_dir / "checkpoints" / failed.name), "No space left on device; it needs", "bytes"):
        assert text in failed.error
    saved = [event.name for event in events if isinstance(event, CheckpointSaved)]
    assert saved == ["e0006-b00000", "e0008-b00000"]
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))
