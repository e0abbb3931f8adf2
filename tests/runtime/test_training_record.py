"""What a training writes: the record of rank 0, and the silence of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import CheckpointError, CheckpointFailed, ConfigError, ForeignCheckpointError
from esper.nissa import read_run
from esper.runtime.policy_run import train_policy
from esper.runtime.training_record import NoRecord, TrainingRecord
from esper.simic import RoundReport
from esper.tolaria import CheckpointStore
from runtime.learning import tiny_training


def test_other_ranks_write_nothing() -> None:
    record: TrainingRecord = NoRecord()
    record.start(is_resumed=False)
    record.say("nothing")
    record.tell(RoundReport(round=1, num_env_steps=1, metrics={}, episodes=(), quarantined=(), findings=()))
    record.stop()
    assert (record.load().tensors, record.load().state) == ({}, {})
    record.save_later([])
    assert record.save_now([]) is None
    assert record.finish() is None


def test_a_save_that_fails_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CheckpointError("disk full")

    monkeypatch.setattr(CheckpointStore, "save", fail)
    result = train_policy(tiny_training(), run_dir=tmp_path / "run", provenance={})
    assert result.num_rounds == 2
    failures = [r.event for r in read_run(tmp_path / "run").records if isinstance(r.event, CheckpointFailed)]
    assert [(event.name, event.num_failures) for event in failures] == [
        ("e0001-b00000", 1),
        ("e0002-b00000", 2),
    ]


def test_a_training_saved_by_other_numbers_of_processes_or_environments_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training(num_rounds=1)
    train_policy(config, run_dir=tmp_path / "run", provenance={})
    load = CheckpointStore.load

    def load_of_three(store: CheckpointStore) -> object:
        loaded = load(store)
        record = replace(loaded.record, state={**loaded.record.state, "num_ranks": 3})
        return replace(loaded, record=record)

    monkeypatch.setattr(CheckpointStore, "load", load_of_three)
    with pytest.raises(ConfigError, match=r"saved by 3 processes, and here are 1: .*is-elastic"):
        train_policy(config, run_dir=tmp_path / "run", provenance={}, resume=True)
    elastic = replace(config, distributed=replace(config.distributed, is_elastic=True))
    assert train_policy(elastic, run_dir=tmp_path / "run", provenance={}, resume=True).num_rounds == 1


def test_a_checkpoint_without_a_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_training(num_rounds=1)
    train_policy(config, run_dir=tmp_path / "run", provenance={})
    load = CheckpointStore.load

    def load_nothing(store: CheckpointStore) -> object:
        loaded = load(store)
        state = {**loaded.record.state, "training": None}
        return replace(loaded, record=replace(loaded.record, state=state))

    monkeypatch.setattr(CheckpointStore, "load", load_nothing)
    with pytest.raises(ForeignCheckpointError, match="holds no training"):
        train_policy(config, run_dir=tmp_path / "run", provenance={}, resume=True)
