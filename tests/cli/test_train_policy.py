"""`esper train ppo`: short flags, one call, one table, JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import train_policy
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.training_record import TrainingResult


@dataclass(slots=True)
class FakeTraining:
    """Stands in for `train_policy` and keeps what it was called with."""

    configs: list[ExperimentConfig] = field(default_factory=list)
    rest: dict[str, object] = field(default_factory=dict)

    def __call__(
        self,
        config: ExperimentConfig,
        *,
        run_dir: Path | None,
        provenance: Mapping[str, str],
        resume: bool = False,
        argv: Sequence[str] = (),
    ) -> TrainingResult:
        self.configs.append(config)
        self.rest = {"run_dir": run_dir, "resume": resume, "argv": tuple(argv), "origins": provenance}
        folder = run_dir or Path("runs/x")
        return TrainingResult(
            run_dir=folder,
            policy_dir=folder / "policy",
            task=config.task.name,
            seed=config.seed,
            num_rounds=config.training.num_updates,
            num_env_steps=640,
            num_parameters=1234,
            metrics={"rollout/ep_rew_mean": 0.0125, "train/explained_variance": 0.5},
        )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(train_policy, "train_policy", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_the_command_line_becomes_one_call(trainings: FakeTraining) -> None:
    args = ["ppo", "--task", "digits", "--envs", "4", "--rounds", "7", "--epochs", "16", "--seed", "5"]
    args += ["--ppo.epochs", "3", "--reward.mode", "sparse", "--run-dir", "out"]
    assert call(["train", *args]).code == 0
    (config,) = trainings.configs
    assert (config.policy, config.seed, config.envs.num_envs) == ("ppo", 5, 4)
    assert (config.training.num_updates, config.host.epochs) == (7, 16)
    assert (config.training.ppo.epochs, config.reward.mode) == (3, "sparse")
    assert config.model == build_preset("digits").model
    assert trainings.rest["run_dir"] == Path("out")
    assert trainings.rest["argv"] == ("train", *args)
    origins = trainings.rest["origins"]
    assert isinstance(origins, Mapping)
    assert origins["training.ppo.epochs"] == "flag"


def test_the_result_is_a_table_or_json_and_the_next_step_is_a_note(trainings: FakeTraining) -> None:
    answer = call(["train", "ppo", "--run-dir", "out"])
    assert "return per episode" in answer.out
    assert "0.0125" in answer.out
    assert "next: esper evaluate --policy out/policy --task digits" in answer.err
    assert "KL divergence" not in answer.out, "what was not measured is left out"
    plain = json.loads(call(["train", "ppo", "--json"]).out)
    assert plain["num_env_steps"] == 640
    assert plain["metrics"]["train/explained_variance"] == 0.5


def test_a_dry_run_of_a_training_is_refused_with_the_way_to_try_one(trainings: FakeTraining) -> None:
    answer = call(["train", "ppo", "--dry-run"])
    assert answer.code == 2
    assert "--rounds 1 --epochs 8" in answer.err
    assert trainings.configs == []


def test_a_target_that_could_never_stop_is_refused(trainings: FakeTraining) -> None:
    answer = call(["train", "ppo", "--ppo.epochs", "1", "--ppo.num-minibatches", "1"])
    assert answer.code == 2
    assert "ppo.target_kl=0.05 cannot act" in answer.err
    assert trainings.configs == []


TINY = (
    *("--task", "digits", "--task.num-train-rows", "128", "--envs", "4", "--envs.num-hosts", "4"),
    *("--rounds", "1", "--epochs", "3", "--network.hidden-size", "16", "--network.core-size", "16"),
    *("--network.token-size", "8", "--telemetry.progress", "none", "--json"),
)


@pytest.mark.slow
@pytest.mark.golden
def test_a_training_in_worker_processes_measures_what_a_serial_one_does(tmp_path: Path) -> None:
    told = []
    for name, fleet in (("a", ("--fleet", "serial")), ("b", ("--fleet", "process", "--fleet.workers", "2"))):
        answer = call(["train", "ppo", *TINY, *fleet, "--run-dir", str(tmp_path / name)])
        assert answer.code == 0, answer.err
        told.append({key: x for key, x in json.loads(answer.out).items() if "_dir" not in key})
    assert told[0] == told[1]
    assert told[0]["metrics"]["rollout/num_steps"] == 12.0
