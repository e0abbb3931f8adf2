"""The training of one policy as a run: written, interrupted mid-rollout, resumed bit for bit, refused."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from esper.leyline import (
    AnomalyFound,
    CheckpointSaved,
    ConfigError,
    EpisodeFinished,
    ForeignCheckpointError,
    InterruptedRunError,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RanksDisagreeError,
    RunDirectoryError,
    SingleProcess,
)
from esper.nissa import effective_log, read_run
from esper.runtime.policy_run import train_policy
from esper.runtime.training_record import WrittenRecord
from esper.simic import Anomaly, EnvStep, GrowthRolloutEnv, QuarantinedRow, RoundReport
from esper.tamiyo import load_policy
from esper.tolaria import CheckpointStore
from runtime.learning import tiny_training

if TYPE_CHECKING:
    import torch


def test_a_training_leaves_a_policy_its_metrics_and_events(tmp_path: Path) -> None:
    result = train_policy(tiny_training(), run_dir=tmp_path / "run", provenance={})
    assert (result.num_rounds, result.num_env_steps) == (2, 28)
    loaded = load_policy(result.policy_dir)
    assert loaded.metadata["training"] == json.loads(json.dumps(loaded.metadata["training"]))
    written = json.loads((tmp_path / "run" / "training.json").read_text())
    assert len(written["rounds"]) == 2
    assert "train/approx_kl" in written["metrics"]
    kinds = [type(record.event) for record in read_run(tmp_path / "run").records]
    assert kinds[0] is PolicyTrainingStarted
    assert kinds.count(EpisodeFinished) == 4
    assert kinds.count(PolicyUpdated) == 2


def send_after(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, num_steps: int) -> None:
    """Send a signal to this process once so many steps of environments were taken."""
    step, taken = GrowthRolloutEnv.step, list[int]()

    def counted(env: GrowthRolloutEnv, actions: torch.Tensor) -> EnvStep:
        taken.append(1)
        if len(taken) == num_steps:
            signal.raise_signal(number)
        return step(env, actions)

    monkeypatch.setattr(GrowthRolloutEnv, "step", counted)


@pytest.mark.battery("T02")
def test_a_training_stopped_in_the_middle_of_a_rollout_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training()
    whole = train_policy(config, run_dir=tmp_path / "whole", provenance={})
    send_after(monkeypatch, signal.SIGINT, 10)  # the third of seven steps of round two
    with pytest.raises(InterruptedRunError, match="go on: esper train --resume"):
        train_policy(config, run_dir=tmp_path / "cut", provenance={})
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").iterdir() if path.is_dir())
    assert names[-1] == "e0001-b00003", "the checkpoint is to lie within the second rollout"
    resumed = train_policy(config, run_dir=tmp_path / "cut", provenance={}, resume=True)
    assert resumed.metrics == whole.metrics
    left, right = (load_policy(result.policy_dir).network.state_dict() for result in (whole, resumed))
    assert all(bool((left[name] == right[name]).all()) for name in left)
    log = [effective_log(tmp_path / name) for name in ("whole", "cut")]
    assert _without_marks(log[0]) == _without_marks(log[1])


def _without_marks(log: tuple[str, ...]) -> list[str]:
    """A log without what tells of attempts and of places where it was saved."""
    marks = ('"PolicyTrainingStarted"', '"RunFinished"', '"CheckpointSaved"')
    return [line for line in log if not any(mark in line for mark in marks)]


def test_a_resume_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    config = tiny_training(num_rounds=1)
    train_policy(config, run_dir=tmp_path / "run", provenance={})
    changed = replace(config, training=replace(config.training, gamma=0.9))
    with pytest.raises(ConfigError, match=r"training\.gamma"):
        train_policy(changed, run_dir=tmp_path / "run", provenance={}, resume=True)
    with pytest.raises(ConfigError, match="needs the directory"):
        train_policy(config, run_dir=None, provenance={}, resume=True)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_training(num_rounds=1)
    train_policy(config, run_dir=tmp_path / "run", provenance={})
    loaded = CheckpointStore.load

    def load_other(store: CheckpointStore) -> object:
        return replace(loaded(store), topology_hash="other")

    monkeypatch.setattr(CheckpointStore, "load", load_other)
    with pytest.raises(ForeignCheckpointError, match="holds no training of this policy"):
        train_policy(config, run_dir=tmp_path / "run", provenance={}, resume=True)


def test_findings_and_quarantined_rows_reach_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Anomaly("blind_critic", 0.0, 0.05, "check gamma")
    original = WrittenRecord.tell

    def tell(self: WrittenRecord, report: RoundReport) -> None:
        rows = (QuarantinedRow("environment 1", 1, 3, "reward is not finite"),)
        original(self, replace(report, findings=(found,), quarantined=rows))

    monkeypatch.setattr(WrittenRecord, "tell", tell)
    train_policy(tiny_training(num_rounds=1), run_dir=tmp_path / "run", provenance={})
    events = [record.event for record in read_run(tmp_path / "run").records]
    assert [event.name for event in events if isinstance(event, AnomalyFound)] == ["blind_critic"]
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert "environment 1 left out from step 3 on: reward is not finite" in notices


def test_ranks_with_other_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SingleProcess, "all_agree", lambda _, digest: False)
    with pytest.raises(RanksDisagreeError, match="the same command line"):
        train_policy(tiny_training(), run_dir=tmp_path / "run", provenance={})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigusr1_saves_within_a_rollout_and_training_goes_on_as_if_nothing_had_been_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_policy(tiny_training(), run_dir=tmp_path / "whole", provenance={})
    send_after(monkeypatch, signal.SIGUSR1, 4)
    saved = train_policy(tiny_training(), run_dir=tmp_path / "saved", provenance={})
    assert saved.metrics == whole.metrics
    names = [
        record.event.name
        for record in read_run(tmp_path / "saved").records
        if isinstance(record.event, CheckpointSaved)
    ]
    assert names[0] == "e0000-b00004"
    assert len(names) == 3


def test_a_training_whose_time_is_over_saves_and_leaves(tmp_path: Path) -> None:
    config = tiny_training()
    limited = replace(config, checkpoint=replace(config.checkpoint, max_hours=1e-9))
    with pytest.raises(
        InterruptedRunError, match=r"stopped after 1e-09 hours .*; saved e0000-b00000"
    ) as error:
        train_policy(limited, run_dir=tmp_path / "run", provenance={})
    assert error.value.signal_exit_code == 143
    assert train_policy(config, run_dir=tmp_path / "run", provenance={}, resume=True).num_rounds == 2


def test_a_disk_without_room_for_the_training_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(RunDirectoryError, match=r"free some, lower --checkpoint\.keep"):
        train_policy(tiny_training(), run_dir=tmp_path / "run", provenance={})
    assert not (tmp_path / "run").exists()
