"""Faults as a policy in training meets them: its own bad gradients, and hosts that break under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.leyline import WAIT
from esper.simic import RewardConfig
from esper.simic.advantages import RowSteps, compute_gae
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.growth_env import GrowthEnvParts, GrowthRolloutEnv
from esper.simic.instances import InstancePlan
from esper.simic.never_runs import NeverRuns
from esper.simic.ppo import LearnerParts
from esper.simic.rewards.modes import build_rubric
from esper.simic.rewards.rubric import RewardState
from esper.tolaria import HostRun, SerialFleet
from tolaria.small_run import make_config, make_parts, make_task
from tolaria.test_host_run import Poison

from .growing import all_rows, as_rows, build_small_run, encode_small
from .tiny_networks import TinyActorCritic, build_bench

GAMMA = 0.9


@pytest.mark.battery("T29")
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_bad_gradient_of_the_policy_skips_the_step_and_is_counted_as_one(value: float) -> None:
    faults = [True, False, False, False]

    def spoil(parameters: Sequence[nn.Parameter]) -> None:
        gradient = parameters[0].grad
        assert gradient is not None
        if faults.pop(0):
            gradient.view(-1)[0] = value

    def build(network: TinyActorCritic, config: TrainingConfig) -> LearnerParts:
        return LearnerParts(network=network, config=config, seed=0, reduce_gradients=spoil)

    config = TrainingConfig(ppo=PPOConfig(num_minibatches=1, target_kl=0.0, epochs=4))
    bench = build_bench(config, dtype=torch.float32, learner_parts=build)
    before = [p.detach().clone() for p in bench.network.parameters()]
    report = bench.learner.update(bench.collect().batch)
    assert report.num_steps == 3
    assert report.metrics["train/skipped/gradient"] == 1.0
    assert sum(x for name, x in report.metrics.items() if name.startswith("train/skipped/")) == 1.0
    assert all(bool(p.isfinite().all()) for p in bench.network.parameters())
    assert all(bool(x.isfinite().all()) for x in bench.learner.state().tensors.values())
    assert not all(torch.equal(a, b) for a, b in zip(before, bench.network.parameters(), strict=True))


def make_poisoned_env(price: float) -> GrowthRolloutEnv:
    """Return one host whose weights become NaN at the end of its third interval."""

    def build(instance: int) -> HostRun:
        config = replace(make_config(epochs=6), on_failure="terminate")
        return HostRun(make_task(), config, make_parts(probe=Poison(3)), run_seed=5, instance=instance)

    rubric = build_rubric(RewardConfig(failure_price=price, bound=100.0), discount=GAMMA)
    parts = GrowthEnvParts(
        fleet=SerialFleet(build, range(1), encode=encode_small),
        never_runs=NeverRuns(build_small_run, start_epochs=()),
        plan=InstancePlan(seed=1, instances=(0,), start_epochs=(0,)),
        build_reward=lambda: RewardState(rubric),
        env_ids=(0,),
    )
    return GrowthRolloutEnv(parts)


@pytest.mark.battery("T31")
def test_a_rollback_is_the_last_step_of_its_episode_and_its_price_reaches_the_policy() -> None:
    returns, rewards = [], []
    for price in (0.0, 3.0):
        env = make_poisoned_env(price)
        env.reset(all_rows(env))
        steps = [env.step(as_rows(env, WAIT)) for _ in range(3)]
        assert [bool(step.terminated[0]) for step in steps] == [False, False, True]
        assert not any(bool(step.truncated[0]) for step in steps)
        summary = steps[-1].summaries[0]
        assert summary is not None
        assert summary["reason"] == "non_finite"
        reward = torch.stack([step.reward for step in steps], dim=1)
        flags = torch.stack([step.terminated for step in steps], dim=1)
        never = torch.zeros_like(flags)
        row = RowSteps(reward, flags, never, ~never, torch.tensor([[True, False, False]]))
        # What follows is worth 50 by the critic; a step that ends the episode must not see it.
        values, following = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 50.0]])
        learned = compute_gae(values, following, row, gamma=GAMMA, gae_lambda=1.0)
        returns.append(learned.returns[0])
        rewards.append(reward[0])
    scale = RewardConfig().scale
    assert (rewards[0] - rewards[1]).tolist() == pytest.approx([0.0, 0.0, 3.0 * scale], abs=1e-6)
    expected = [3.0 * scale * GAMMA**k for k in (2, 1, 0)]
    assert (returns[0] - returns[1]).tolist() == pytest.approx(expected, abs=1e-5)
    assert float(returns[1][2]) == pytest.approx(float(rewards[1][2]), abs=1e-6)
