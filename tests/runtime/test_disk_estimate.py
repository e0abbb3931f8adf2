"""A run that cannot fit on its disk is refused before it writes; the estimate is a close upper bound."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import Notice, RunDirectoryError, RunFinished
from esper.nissa import read_run
from esper.runtime import run as run_module
from esper.runtime.assemble import assemble
from esper.runtime.disk_estimate import (
    DiskNeed,
    check_disk,
    check_training_disk,
    compare_with_room,
    count_tensor_bytes,
    estimate_checkpoint,
    estimate_events,
)
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policy_run import train_policy
from esper.runtime.presets import digits
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.run import run_experiment
from esper.runtime.training import assemble_training
from runtime.learning import tiny_training

NEED = DiskNeed(checkpoint_bytes=1_000_000, num_checkpoints=4, event_bytes=500_000)
Usage = namedtuple("Usage", "total used free")


def cycle(epochs: int = 8, base_channels: int = 3, optimizer: str = "adamw") -> ExperimentConfig:
    """Digits on which one seed is kept and one is culled."""
    config = replace(run_module._shorten(digits()), policy="cycle")
    return replace(
        config,
        task=replace(config.task, num_train_rows=128),
        model=replace(config.model, base_channels=base_channels),
        host=replace(config.host, epochs=epochs, optimizer=replace(config.host.optimizer, name=optimizer)),
        telemetry=replace(config.telemetry, progress="none", has_report=False),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_grown_network_is_never_larger_than_estimated(optimizer: str) -> None:
    assembly = assemble(cycle(base_channels=24, optimizer=optimizer))
    estimate, host_run = estimate_checkpoint(assembly), assembly.host_run
    largest = 0
    while not host_run.is_finished:
        host_run.apply(assembly.policy.decide(host_run.observe()))
        host_run.train_epoch()
        largest = max(largest, count_tensor_bytes(host_run.state().tensors))
    assert host_run.bench.model.added_params > 0
    assert 0 < largest < estimate


def test_a_network_that_may_not_grow_is_estimated_closely() -> None:
    config = cycle(base_channels=24, epochs=4)
    lifecycle = replace(config.host.lifecycle, max_added_params_fraction=0.0)
    config = replace(config, policy="never", host=replace(config.host, lifecycle=lifecycle))
    assembly = assemble(config)
    estimate, host_run = estimate_checkpoint(assembly), assembly.host_run
    while not host_run.is_finished:
        host_run.train_epoch()
    written = count_tensor_bytes(host_run.state().tensors)
    assert written < estimate < 1.2 * written + 150_000  # what the constant for plain data is


def test_a_checkpoint_on_disk_and_the_events_fit_the_estimate(tmp_path: Path) -> None:
    config = cycle()
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    estimate = estimate_checkpoint(assemble(config))
    sizes = [
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in (tmp_path / "run" / "checkpoints").iterdir()
        if folder.is_dir()
    ]
    assert 0 < max(sizes) < estimate
    written = (tmp_path / "run" / "events-0.jsonl").stat().st_size
    assert written / 2 < estimate_events(config, 8, 2) < 3 * written


@pytest.mark.slow
def test_the_training_of_a_policy_is_estimated_from_its_first_state(tmp_path: Path) -> None:
    config = tiny_training()
    record = assemble_training(config, LoneRank()).trainer.state()
    with pytest.raises(RunDirectoryError, match="4 checkpoints of up to 714 kB"):
        check_training_disk(config, record, tmp_path, lambda path: 0)
    assert check_training_disk(config, record, tmp_path, lambda path: 10**9) == ()
    train_policy(config, run_dir=tmp_path / "run", provenance={})
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        if folder.is_dir():
            assert sum(file.stat().st_size for file in folder.iterdir()) < 714_000


@pytest.mark.parametrize(
    ("free", "num_notices"), [(4_499_999, None), (4_500_000, 1), (8_999_999, 1), (9_000_000, 0)]
)
def test_what_does_not_fit_is_refused_and_what_takes_over_half_is_told(
    free: int, num_notices: int | None, tmp_path: Path
) -> None:
    if num_notices is None:
        with pytest.raises(RunDirectoryError, match=r"may need 4\.5 MB: 4 checkpoints .* lower"):
            compare_with_room(NEED, tmp_path / "new" / "run", lambda path: free)
    else:
        assert len(compare_with_room(NEED, tmp_path / "new" / "run", lambda path: free)) == num_notices


def test_the_file_system_of_a_directory_that_is_not_there_yet_is_asked(tmp_path: Path) -> None:
    asked: list[Path] = []

    def free(path: Path) -> int:
        asked.append(path)
        return 10**9

    compare_with_room(NEED, tmp_path / "new" / "run", free)
    assert asked == [tmp_path]


def test_checkpoints_that_are_there_already_need_no_room_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "big").open("wb") as file:
        os.truncate(file.fileno(), 2_000_000)
    assert len(compare_with_room(NEED, tmp_path, lambda path: 2_500_000)) == 1
    with pytest.raises(RunDirectoryError, match=r"may need 2\.5 MB"):
        compare_with_room(NEED, tmp_path, lambda path: 2_499_999)


def test_a_file_system_that_does_not_tell_its_room_is_trusted(tmp_path: Path) -> None:
    def refuse(path: Path) -> int:
        raise OSError("not supported")

    assert compare_with_room(NEED, tmp_path, refuse) == ()


def test_a_run_without_room_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    with pytest.raises(RunDirectoryError, match="0 kB are free there"):
        run_experiment(cycle(), run_dir=tmp_path / "run", provenance={})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_takes_most_of_the_room_says_so_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cycle(epochs=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**6))
    run_experiment(config, run_dir=tmp_path / "run", provenance={})
    events = [record.event for record in read_run(tmp_path / "run").records]
    (told,) = [event.text for event in events if isinstance(event, Notice)]
    assert (tmp_path / "run").name in told
    assert isinstance(events[-1], RunFinished)
    assert check_disk(config, assemble(config), None, lambda path: 10**9) == ()
