"""Rows of a toy: independent of each other, idle between episodes, restored exactly."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError
from esper.simic.toys.grow_toy import GrowEpisode, build_grow_toy
from esper.simic.toys.masked_recall import build_masked_recall
from esper.simic.toys.rollout import ToyRolloutEnv, derive_row_seeds

ACTIONS = torch.tensor(
    [[1, 0, 0], [0, 0, 0], [1, 1, 1], [3, 0, 0], [0, 0, 0], [2, 1, 0], [1, 0, 1], [2, 1, 0]]
)


def everywhere(num_rows: int) -> Tensor:
    """A mask of all rows."""
    return torch.ones(num_rows, dtype=torch.bool)


def play(env: ToyRolloutEnv[GrowEpisode], num_steps: int) -> tuple[Tensor, Tensor]:
    """Step all rows with fixed actions and immediate resets; return features [T, E, D] and rewards [T, E]."""
    features, rewards = [], []
    for step in range(num_steps):
        result = env.step(ACTIONS[step % len(ACTIONS)].expand(env.num_envs, 3))
        features.append(result.inputs["features"])
        rewards.append(result.reward)
        env.reset(result.ended)
    return torch.stack(features), torch.stack(rewards)


def test_a41_a_row_depends_on_its_seed_and_episode_alone() -> None:
    seeds = derive_row_seeds(7, 4)
    together = build_grow_toy(seeds)
    together.reset(everywhere(4))
    pairs = [build_grow_toy(derive_row_seeds(7, 2, first_row=start)) for start in (0, 2)]
    for env in pairs:
        env.reset(everywhere(2))
    features, rewards = play(together, 40)
    halves = [play(env, 40) for env in pairs]
    assert torch.equal(features, torch.cat([half[0] for half in halves], dim=1))
    assert torch.equal(rewards, torch.cat([half[1] for half in halves], dim=1))


def test_episodes_of_a_row_differ() -> None:
    env = build_masked_recall((3,), corridor=1)
    seen = set()
    for _ in range(40):
        env.reset(everywhere(1))
        seen.add(tuple(env.observe()["features"][0].tolist()))
    assert len(seen) == 4


def test_only_the_rows_of_the_mask_begin_anew() -> None:
    env = build_grow_toy(derive_row_seeds(0, 2))
    env.reset(torch.tensor([True, False]))
    step = env.step(torch.tensor([[1, 0, 0], [1, 0, 0]]))
    assert step.is_valid.tolist() == [True, False]
    assert step.reward.tolist() == pytest.approx([-0.002, 0.0])
    env.reset(torch.tensor([False, True]))
    assert env.observe()["features"][:, 0].tolist() == [15 / 16, 1.0]


def test_a21_a_restored_environment_goes_on_bit_for_bit() -> None:
    env = build_grow_toy(derive_row_seeds(1, 3), is_hidden=True)
    env.reset(everywhere(3))
    play(env, 21)
    text = json.dumps(env.state())
    expected = play(env, 30)
    other = build_grow_toy(derive_row_seeds(1, 3), is_hidden=True)
    other.restore(json.loads(text))
    assert json.dumps(other.state()) == text
    again = play(other, 30)
    assert torch.equal(expected[0], again[0])
    assert torch.equal(expected[1], again[1])


def test_a_state_of_another_environment_is_refused() -> None:
    env = build_grow_toy((1, 2))
    with pytest.raises(ForeignCheckpointError, match="seeds"):
        env.restore(build_grow_toy((1, 3)).state())
    with pytest.raises(ForeignCheckpointError, match="masked_recall"):
        env.restore(build_masked_recall((1, 2)).state())


def test_an_environment_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        build_grow_toy(())


def test_rows_have_names_and_closing_twice_is_harmless() -> None:
    env = build_grow_toy((1, 2))
    assert env.names == ("grow_toy/0", "grow_toy/1")
    env.close()
    env.close()
