"""The start of a training by imitation: which teacher, told how; refused before anything is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import ConfigError, EpisodeFinished, Notice, SingleProcess, UnknownNameError
from esper.nissa import read_run
from esper.runtime.experiment import EnvsConfig, ExperimentConfig
from esper.runtime.imitating import ImitatedStart, describe_imitation, start_by_imitation
from esper.runtime.policy_run import train_policy
from esper.runtime.presets import build_preset
from esper.runtime.ranks.lone import LoneRank
from esper.runtime.training import assemble_training
from esper.simic import ImitationReport
from esper.simic.imitation_config import ImitationConfig
from esper.tamiyo import NetworkConfig


def make_config(imitation: ImitationConfig) -> ExperimentConfig:
    preset = build_preset("synthetic")
    return replace(
        preset,
        policy="ppo",
        host=replace(preset.host, epochs=10),
        envs=EnvsConfig(num_envs=2, num_hosts=2),
        network=NetworkConfig(hidden_size=16, token_size=8, core_size=16, is_critic_privileged=True),
        training=replace(preset.training, num_updates=1, imitation=imitation),
    )


def test_without_rounds_nothing_is_imitated() -> None:
    config = make_config(ImitationConfig())
    assert start_by_imitation(config, assemble_training(config, LoneRank()), SingleProcess()) is None


def test_an_unknown_teacher_is_refused_by_name() -> None:
    config = make_config(ImitationConfig(num_rounds=1, teachers=("never", "heuristc")))
    with pytest.raises(UnknownNameError, match="did you mean 'heuristic'"):
        start_by_imitation(config, assemble_training(config, LoneRank()), SingleProcess())


def test_a_teacher_that_could_only_wait_is_refused_before_a_directory_is_made(tmp_path: Path) -> None:
    config = make_config(ImitationConfig(num_rounds=1, teachers=("never", "greedy")))
    with pytest.raises(ConfigError, match=r"host\.measuring\.score_every=0: policy greedy"):
        train_policy(config, run_dir=tmp_path / "run", provenance={})
    assert not (tmp_path / "run").exists()


def test_what_imitation_came_to_is_told_in_one_line() -> None:
    report = ImitationReport(num_decisions=1200, nats_first=4.25, nats_last=0.5)
    one = ImitatedStart(report=report, num_hosts=(("heuristic", 24),))
    assert describe_imitation(one) == (
        "imitated heuristic in 1,200 decisions: 4.25 nats per decision at first, 0.50 in the end"
    )
    two = ImitatedStart(report=report, num_hosts=(("heuristic", 20), ("never", 4)))
    assert describe_imitation(two).startswith(
        "imitated heuristic (on 20 hosts), never (on 4 hosts) in 1,200 "
    )
    idle = ImitationReport(num_decisions=0, nats_first=math.nan, nats_last=math.nan)
    assert describe_imitation(ImitatedStart(report=idle, num_hosts=(("never", 2),))) == (
        "nothing was imitated: never had no decision to make"
    )


@pytest.mark.slow
def test_every_host_is_imitated_in_the_life_that_came_to_most() -> None:
    """Where growth costs more than anything it could win, the hosts that never grew are learned from."""
    config = make_config(ImitationConfig(num_rounds=1, epochs=1, teachers=("heuristic", "never")))
    dear = replace(
        config,
        host=replace(config.host, epochs=24),
        reward=replace(config.reward, lambda_p=100.0, lambda_f=100.0),
    )
    start = start_by_imitation(dear, assemble_training(dear, LoneRank()), SingleProcess())
    assert start is not None
    assert start.num_hosts == (("heuristic", 0), ("never", 2))


@pytest.mark.slow
def test_a_training_that_begins_by_imitation_says_so_and_meets_the_same_hosts(tmp_path: Path) -> None:
    logs = []
    for num_rounds in (0, 1):
        run = tmp_path / str(num_rounds)
        train_policy(
            make_config(ImitationConfig(num_rounds=num_rounds, epochs=2)), run_dir=run, provenance={}
        )
        logs.append([record.event for record in read_run(run).records])
    texts = [[event.text for event in log if isinstance(event, Notice)] for log in logs]
    assert not any("imitated" in text for text in texts[0])
    assert any(text.startswith("imitated heuristic in ") for text in texts[1])
    hosts = [[event.instance for event in log if isinstance(event, EpisodeFinished)] for log in logs]
    assert hosts[0] == hosts[1] != []
