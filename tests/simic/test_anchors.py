"""Learning anchors: worlds on which a learner without a fault reaches a known score. Bounded and seeded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.simic.config import (
    EntropyConfig,
    NormalizationConfig,
    PPOConfig,
    RolloutConfig,
    ScheduleConfig,
    TrainingConfig,
)
from esper.simic.interfaces import RolloutEnv
from esper.simic.toys.joint_bandit import JointBandit, build_joint_bandit
from esper.simic.toys.masked_recall import build_masked_recall
from esper.simic.toys.rollout import derive_row_seeds
from esper.tamiyo import NetworkConfig
from simic.gym_adapter import build_invalid_actions, build_pole
from simic.learning import play, train_on

PLAIN = NetworkConfig(kind="flat", hidden_size=64, core_size=64, flat_features=1, family_size=1)


def fit_network(env: RolloutEnv, config: NetworkConfig = PLAIN) -> NetworkConfig:
    """The configuration with as many features as the environment has."""
    env.reset(torch.ones(env.num_envs, dtype=torch.bool))
    return replace(config, flat_features=env.observe()["features"].shape[-1])


@pytest.mark.slow
@pytest.mark.parametrize("clip_mode", ["joint", "per_head"])
def test_the_best_joint_action_of_a_bandit_is_found(clip_mode: str) -> None:
    env = build_joint_bandit(derive_row_seeds(0, 64))
    config = TrainingConfig(
        num_updates=60,
        ppo=PPOConfig(learning_rate=3e-3, num_minibatches=4, target_kl=0.0, clip_mode=clip_mode),
        entropy=EntropyConfig(start=0.0, end=0.0),
    )
    network = fit_network(env, replace(PLAIN, is_recurrent=False, flat_slots=2, flat_blueprints=3))
    trained = train_on(env, network, config, num_steps=1, seed=0)
    bandit = JointBandit(table_seed=0)
    best = bandit.actions[int(bandit.rewards.argmax())]
    env.reset(torch.ones(64, dtype=torch.bool))
    with torch.no_grad():
        start = torch.ones(64, dtype=torch.bool)
        view = trained.network.view(env.observe(), trained.network.initial_memory(64), start)
        probability = view.distribution.log_prob(best.expand(64, -1)).sum(dim=-1).exp()
    assert float(probability.min()) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("corridor", [1, 8, 40])
@pytest.mark.parametrize("seed", range(5))
def test_a_cue_is_remembered_through_forced_steps_and_used_under_the_mask(corridor: int, seed: int) -> None:
    """MaskedRecall: 1 with memory and mask, 1/4 without the memory.

    Over 40 steps gates at bias 1 pass on nothing to learn from (.26 after 80 updates); spread spans do.
    """
    env = build_masked_recall(derive_row_seeds(seed, 64), corridor=corridor)
    config = TrainingConfig(
        num_updates=60 if corridor < 40 else 80,
        gamma=0.99,
        ppo=PPOConfig(learning_rate=2e-3, num_minibatches=4, target_kl=0.03),
        entropy=EntropyConfig(start=0.01, end=0.0),
    )
    network = replace(fit_network(env), memory_span=1 if corridor < 40 else 40)
    trained = train_on(env, network, config, num_steps=corridor + 1, seed=seed)
    fresh = build_masked_recall(derive_row_seeds(999, 64), corridor=corridor)
    assert play(fresh, trained, num_episodes=8) >= 0.95


@pytest.mark.slow
def test_without_a_memory_no_more_is_recalled_than_chance_under_the_mask_allows() -> None:
    """That mask and observation give the cue away nowhere."""
    env = build_masked_recall(derive_row_seeds(0, 64), corridor=8)
    config = TrainingConfig(num_updates=40, gamma=0.99, ppo=PPOConfig(learning_rate=2e-3, num_minibatches=4))
    memoryless = fit_network(env, replace(PLAIN, is_recurrent=False))
    trained = train_on(env, memoryless, config, num_steps=9, seed=0)
    fresh = build_masked_recall(derive_row_seeds(999, 64), corridor=8)
    # 512 episodes: 1/4 and three standard errors.
    assert play(fresh, trained, num_episodes=8, is_greedy=False) <= 0.25 + 3 * 0.0191


CONSTANT_RATE = ScheduleConfig(kind="constant", warmup_fraction=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_what_is_asked_for_is_found_among_mostly_illegal_actions_within_2048_steps(seed: int) -> None:
    """InvalidActionEnv of sb3-contrib, 55 of 70 actions illegal, others at every step; 100 is perfect."""
    env = build_invalid_actions(tuple(range(100 * seed, 100 * seed + 32)))
    config = TrainingConfig(
        num_updates=1,
        gamma=0.1,
        rollout=RolloutConfig(num_steps=64, resets_within_rows=True),
        ppo=PPOConfig(
            learning_rate=3e-3,
            epochs=10,
            num_minibatches=32,
            target_kl=0.0,
            clip_range=0.3,
            max_grad_norm=5.0,
            advantage_norm="minibatch",
        ),
        entropy=EntropyConfig(start=0.0, end=0.0),
        schedule=CONSTANT_RATE,
    )
    memoryless = fit_network(env, replace(PLAIN, is_recurrent=False))
    trained = train_on(env, memoryless, config, num_steps=64, seed=seed)
    assert trained.num_env_steps == 2048
    assert play(build_invalid_actions(tuple(range(9000, 9004))), trained, num_episodes=1) >= 90.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_pole_without_velocities_is_balanced_within_50_000_steps(seed: int) -> None:
    """CartPole-v1 that shows place and angle only, 500 steps at most: velocities must be remembered."""
    env = build_pole(tuple(range(100 * seed, 100 * seed + 8)))
    config = TrainingConfig(
        num_updates=48,
        gamma=0.99,
        gae_lambda=0.98,
        rollout=RolloutConfig(num_steps=128, resets_within_rows=True),
        ppo=PPOConfig(learning_rate=1e-3, epochs=10, num_minibatches=4, target_kl=0.0, max_grad_norm=1.0),
        entropy=EntropyConfig(start=0.0, end=0.0),
        schedule=ScheduleConfig(kind="linear", warmup_fraction=0.0),
        normalization=NormalizationConfig(inputs=("features",)),
    )
    trained = train_on(env, fit_network(env), config, num_steps=128, seed=seed)
    assert trained.num_env_steps <= 50_000
    assert play(build_pole(tuple(range(9000, 9010))), trained, num_episodes=1) >= 450.0
