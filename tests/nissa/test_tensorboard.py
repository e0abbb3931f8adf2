"""TensorBoard's files, read back with TensorBoard itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.leyline import Event, RolledBack, RunStarted
from esper.nissa import Record, TensorBoardBackend
from nissa.sample_run import EPOCHS, finished_epoch, numbered, run_events
from nissa.sample_training import training_events


def _write(folder: Path, records: Iterable[Record]) -> None:
    backend = TensorBoardBackend(folder)
    for record in records:
        backend.write(record)
    backend.close()


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve as (step, value) pairs."""
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def test_what_a_run_told_is_read_back(tmp_path: Path) -> None:
    _write(tmp_path, numbered(run_events()))
    curves = _read(tmp_path)
    (end,) = curves["test/accuracy"]
    (contribution,) = curves["slots/block2/contribution"]
    assert (end[0], contribution[0]) == (EPOCHS, 19)
    assert [end[1], contribution[1]] == pytest.approx([0.938, 0.02])
    accuracy = curves["validation/accuracy"]
    assert [step for step, _ in accuracy] == list(range(1, EPOCHS + 1))
    wanted = [finished_epoch(epoch).raw_metrics["accuracy"] for epoch in range(1, EPOCHS + 1)]
    assert [value for _, value in accuracy] == pytest.approx(wanted)


def test_a_training_lies_on_the_axis_of_steps_under_the_names_that_users_know(tmp_path: Path) -> None:
    _write(tmp_path, numbered(training_events(3)))
    curves = _read(tmp_path)
    assert [step for step, _ in curves["rollout/ep_rew_mean"]] == [20, 40, 60]
    assert {"train/approx_kl", "train/explained_variance", "time/total_timesteps"} <= set(curves)


def test_a_resume_takes_out_what_it_went_back_before(tmp_path: Path) -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    _write(tmp_path, numbered([start, *map(finished_epoch, range(1, 7))]))
    again: list[Event] = [replace(start, epoch=4, is_resumed=True), *map(finished_epoch, range(5, 9))]
    _write(tmp_path, numbered(again, attempt=1, first_seq=7))
    assert [step for step, _ in _read(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_rollback_takes_out_what_it_undid(tmp_path: Path) -> None:
    back = RolledBack(
        epoch=6, verdict="diverged", reason="loss", restored_epoch=4, blamed_slot=None, rollback_count=1
    )
    _write(tmp_path, numbered([*map(finished_epoch, range(1, 7)), back, *map(finished_epoch, range(5, 8))]))
    assert [step for step, _ in _read(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_number_that_is_not_finite_stays_one(tmp_path: Path) -> None:
    _write(tmp_path, numbered([replace(finished_epoch(1), train_loss=math.inf)]))
    assert _read(tmp_path)["train/loss"] == [(1, math.inf)]


def test_nothing_is_written_before_the_first_number(tmp_path: Path) -> None:
    _write(tmp_path, numbered(list(run_events())[:1]))
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_in_the_file_while_the_run_goes_on(tmp_path: Path) -> None:
    backend = TensorBoardBackend(tmp_path)
    backend.write(numbered([finished_epoch(1)])[0])
    assert [step for step, _ in _read(tmp_path)["train/loss"]] == [1]
    backend.close()


def test_no_name_of_the_machine_is_in_the_files_name(tmp_path: Path) -> None:
    _write(tmp_path, numbered([finished_epoch(1)]))
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [
        "events.out.tfevents.0000001000.0"
    ]
