"""Episodes behind an adapter: what they add up to, time limits, penalties, and plain facts."""

from __future__ import annotations

import math

import pytest
import torch

from esper.leyline import JsonValue
from esper.simic.gym.session import INVALID_TERM, EpisodeSession
from esper.simic.gym.spaces import GymInterface, GymOptions
from esper.simic.interfaces import RolloutEnv
from esper.simic.toys.grow_toy import build_grow_toy
from simic.gym.fake_growth import FakeGrowth

TWO = torch.ones(2, dtype=torch.bool)
GERMINATE = torch.tensor([[1, 0, 0], [1, 0, 0]])
WAIT = torch.zeros(2, 3, dtype=torch.int64)


def start(env: RolloutEnv, *, penalty: float = 0.0, limit: int | None = None) -> EpisodeSession:
    """Begin a session."""
    env.reset(torch.ones(env.num_envs, dtype=torch.bool))
    interface = GymInterface(env, GymOptions())
    return EpisodeSession(env, interface, invalid_penalty=penalty, max_episode_steps=limit)


def test_a_penalty_is_a_share_of_the_reward_and_of_the_return() -> None:
    session = start(build_grow_toy((0, 1)), penalty=0.5, limit=2)
    session.step(torch.tensor([[1, 0, 0], [0, 0, 0]]))
    taken = session.step(torch.tensor([[1, 0, 0], [0, 1, 1]]))
    assert taken.is_invalid.tolist() == [True, False]
    assert taken.transition.reward.tolist() == pytest.approx([-0.502, 0.0])
    assert taken.transition.terms[INVALID_TERM].tolist() == [-0.5, 0.0]
    total = torch.stack(list(taken.transition.terms.values())).sum(dim=0)
    assert torch.allclose(total, taken.transition.reward)
    assert session.final_facts(taken.transition, 0)["episode_return"] == pytest.approx(-0.504, abs=1e-6)


def test_a_time_limit_is_a_true_truncation_and_the_row_idles() -> None:
    session = start(build_grow_toy((0, 1)), limit=3)
    for _ in range(2):
        assert not bool(session.step(GERMINATE).transition.ended.any())
    session.begin(torch.tensor([False, True]))
    step = session.step(WAIT).transition
    assert step.truncated.tolist() == [True, False]
    assert step.terminated.tolist() == [False, False]
    assert session.final_facts(step, 0)["termination_reason"] == "time_limit"
    idle = session.step(GERMINATE).transition
    assert idle.is_valid.tolist() == [False, True]
    assert idle.reward.tolist() == pytest.approx([0.0, -0.002])
    assert idle.terms["rent"].tolist() == pytest.approx([0.0, -0.002])
    assert session.needs_reset.tolist() == [True, False]


def test_a_horizon_before_the_limit_stays_a_termination() -> None:
    session = start(build_grow_toy((0, 1)), limit=16)
    for _ in range(16):
        step = session.step(WAIT).transition
    assert step.terminated.tolist() == [True, True]
    assert step.truncated.tolist() == [False, False]
    facts = session.final_facts(step, 1)
    assert facts["termination_reason"] == "horizon"
    assert facts["episode_length"] == 16


def test_numbers_that_are_not_finite_become_a_value_and_a_flag() -> None:
    summary: dict[str, JsonValue] = {"metric": math.nan, "inner": {"loss": math.inf, "name": "x"}, "count": 3}
    session = start(FakeGrowth((0,), summary))
    for _ in range(4):
        step = session.step(torch.zeros(1, 7, dtype=torch.int64)).transition
    facts = session.final_facts(step, 0)
    assert facts["metric"] == 0.0
    assert facts["metric_is_finite"] is False
    assert facts["inner"] == {"loss": 0.0, "loss_is_finite": False, "name": "x"}
    assert facts["count"] == 3
    assert facts["termination_reason"] == "terminated"


def test_telemetry_counts_steps_episodes_and_illegal_actions() -> None:
    session = start(build_grow_toy((0, 1)), limit=2)
    assert session.telemetry()["steps_per_second"] == 0.0
    session.step(GERMINATE)
    session.step(GERMINATE)
    session.step(GERMINATE)
    telemetry = session.telemetry()
    assert telemetry["num_steps"] == 4
    assert telemetry["num_episodes"] == 2
    assert telemetry["num_invalid_actions"] == 2
