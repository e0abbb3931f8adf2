"""Metrics go by the names that users of Stable-Baselines3 know, and every reported one is in the table."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import KVWriter, Logger

from esper.simic.anomalies import METRIC_TABLE
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.toys.grow_toy import GrowToy
from esper.simic.toys.rollout import ToyRolloutEnv, derive_row_seeds
from esper.simic.trainer import PolicyTrainer, TrainerParts
from esper.tamiyo import NetworkConfig, build_network

CLOCK = "time/"
"""Prefix of what is measured by a clock: no metric here, because equal runs report equal metrics."""


class Names(KVWriter):
    """Collects what a logger is told."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}

    def write(
        self, key_values: dict[str, object], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        self.seen |= key_values

    def close(self) -> None:
        return


def peer_names(kind: type[PPO] | type[MaskablePPO]) -> set[str]:
    """Return the names that two rounds of a peer log."""
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = kind("MlpPolicy", gymnasium.make("CartPole-v1"), **settings)  # type: ignore[arg-type]
    names = Names()
    model.set_logger(Logger(folder=None, output_formats=[names]))
    if isinstance(model, MaskablePPO):
        model.learn(128, use_masking=False)
    else:
        model.learn(128)
    return set(names.seen)


@pytest.fixture(scope="module")
def rounds() -> list[Mapping[str, float]]:
    """Metrics of three rounds of ours."""
    env: ToyRolloutEnv[object] = ToyRolloutEnv(GrowToy(), derive_row_seeds(0, 3))  # type: ignore[arg-type]
    network = build_network(
        NetworkConfig(
            kind="flat",
            hidden_size=8,
            core_size=8,
            flat_features=25,
            flat_slots=2,
            flat_blueprints=2,
            family_size=1,
        ),
        env.layout,
        seed=1,
    )
    config = TrainingConfig(num_updates=3, ppo=PPOConfig(epochs=2))
    parts = TrainerParts(
        env=env,
        network=network,
        learner=PPOLearner(LearnerParts(network=network, config=config, seed=0)),
        config=config,
        num_steps=16,
        device=torch.device("cpu"),
        seed=0,
    )
    trainer = PolicyTrainer(parts)
    reports = [trainer.run_round() for _ in range(3)]
    return [report.metrics for report in reports if report is not None]


def is_in_table(name: str) -> bool:
    """Whether the table has the name, or the pattern that it belongs to."""
    patterns = [entry.split("<")[0] for entry in METRIC_TABLE if "<" in entry]
    return name in METRIC_TABLE or any(name.startswith(pattern) for pattern in patterns)


@pytest.mark.filterwarnings("ignore:::stable_baselines3")
@pytest.mark.filterwarnings("ignore:::sb3_contrib")
@pytest.mark.parametrize("kind", [PPO, MaskablePPO])
def test_what_stable_baselines3_logs_is_logged_here_under_the_same_name(
    kind: type[PPO] | type[MaskablePPO], rounds: list[Mapping[str, float]]
) -> None:
    theirs = peer_names(kind)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "train/approx_kl", "train/n_updates"} <= theirs
    measured = {name for name in theirs if not name.startswith(CLOCK)}
    assert measured <= set(METRIC_TABLE)
    for metrics in rounds:
        assert measured <= set(metrics)
    # Steps and rounds are fields of a round's report and of its event; seconds would make equal runs differ.
    assert theirs - measured == {
        "time/fps",
        "time/iterations",
        "time/time_elapsed",
        "time/total_timesteps",
    }


def test_every_metric_of_a_round_is_in_the_table(rounds: list[Mapping[str, float]]) -> None:
    assert [name for metrics in rounds for name in metrics if not is_in_table(name)] == []
    assert "rollout/time_explained_variance" in rounds[-1]


def test_names_of_cleanrl_are_its_own() -> None:
    words = {info.cleanrl for info in METRIC_TABLE.values() if info.cleanrl}
    assert words == {
        "charts/episodic_length",
        "charts/episodic_return",
        "charts/learning_rate",
        "losses/approx_kl",
        "losses/clipfrac",
        "losses/entropy",
        "losses/explained_variance",
        "losses/policy_loss",
        "losses/value_loss",
    }


def test_where_a_name_means_something_else_there_the_table_says_so() -> None:
    for name in ("train/n_updates", "train/approx_kl", "train/loss", "train/value_loss"):
        assert "Stable-Baselines3" in METRIC_TABLE[name].meaning
    assert "CleanRL without minus" in METRIC_TABLE["train/entropy_loss"].meaning
