"""A clock as critic: explains what time alone explains, and never from the round it is asked about."""

from __future__ import annotations

import pytest
import torch

from esper.simic.time_critic import TimeCritic

VALID = torch.ones(2, 3, dtype=torch.bool)


def test_returns_that_follow_the_clock_are_explained_wholly_in_the_next_round() -> None:
    returns = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    critic = TimeCritic(3)
    assert critic.explain(returns, VALID) is None
    critic.learn(returns, VALID)
    assert critic.explain(returns, VALID) == pytest.approx(1.0)


def test_returns_that_differ_only_between_episodes_are_not_explained() -> None:
    returns = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    critic = TimeCritic(3)
    critic.learn(returns, VALID)
    assert critic.explain(returns, VALID) == pytest.approx(0.0)


def test_steps_that_are_not_valid_teach_nothing_and_count_nothing() -> None:
    valid = VALID.clone()
    valid[:, 2] = False
    critic = TimeCritic(3)
    critic.learn(torch.tensor([[3.0, 2.0, 99.0], [3.0, 2.0, 99.0]]), valid)
    assert critic.means[2].isnan()
    assert critic.explain(torch.tensor([[3.0, 2.0, 5.0], [3.0, 2.0, 7.0]]), VALID) == pytest.approx(1.0)


def test_a_short_rollout_touches_only_its_steps() -> None:
    critic = TimeCritic(3)
    critic.learn(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool))
    critic.learn(torch.tensor([[2.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert critic.means.tolist() == pytest.approx([1.2, 2.0, 3.0])


def test_returns_without_variance_have_no_answer() -> None:
    critic = TimeCritic(2)
    returns = torch.ones(2, 2)
    critic.learn(returns, torch.ones(2, 2, dtype=torch.bool))
    assert critic.explain(returns, torch.ones(2, 2, dtype=torch.bool)) is None
