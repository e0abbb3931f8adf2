"""Entry points of the toys: what a registry passes them, and rules that a digest can pin."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from esper.leyline import ConfigError
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.toys import (
    make_grow_toy,
    make_grow_toy_vector,
    make_masked_recall,
    make_masked_recall_vector,
)


def test_a_registry_can_build_them_with_arguments() -> None:
    spec = EnvSpec("test/Toy-v0", entry_point="esper.simic.gym.toys:make_grow_toy", kwargs={"hidden": True})
    env = gymnasium.make(spec, flatten_actions=True, obs_mode="flat")
    assert isinstance(env.unwrapped, GrowthEnv)
    assert env.unwrapped.rules["is_hidden"] is True
    assert env.action_space == spaces.Discrete(9)
    assert env.observation_space.shape == (25,)


def test_the_action_space_of_the_growth_toy_is_the_published_one() -> None:
    assert make_grow_toy().action_space == spaces.MultiDiscrete([4, 2, 2])
    assert make_masked_recall().action_space == spaces.MultiDiscrete([8])
    assert make_masked_recall(flatten_actions=True).action_space == spaces.Discrete(8)


def test_the_corridor_is_as_long_as_asked_for() -> None:
    env = make_masked_recall(corridor=3)
    env.reset(seed=0)
    ends = [env.step(np.array([0]))[2] for _ in range(4)]
    assert ends == [False, False, False, True]
    vector = make_masked_recall_vector(2, corridor=1)
    vector.reset(seed=0)
    vector.step(np.array([[0], [0]]))
    assert vector.step(np.array([[0], [0]]))[2].tolist() == [True, True]


def test_a_vector_has_the_rules_of_its_rows() -> None:
    assert make_grow_toy_vector(2, hidden=True).rules == make_grow_toy(hidden=True).rules
    assert make_masked_recall_vector(2).rules == make_masked_recall().rules


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="corridor"):
        make_masked_recall(corridor=0)
    with pytest.raises(ConfigError, match="obs_mode"):
        make_grow_toy(obs_mode="nested")
