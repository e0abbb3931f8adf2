"""Masks inside the observation, under the names that other libraries look for."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from esper.leyline import ConfigError
from esper.simic.gym.toys import make_grow_toy
from esper.simic.gym.wrappers import MaskInObs

SPEC = EnvSpec("test/Toy-v0", entry_point="esper.simic.gym.toys:make_grow_toy")


@pytest.mark.parametrize("obs_key", ["obs", "observations"])
@pytest.mark.parametrize(("flatten_actions", "length"), [(False, 8), (True, 9)])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
def test_the_mask_stands_beside_the_observation(obs_key: str, flatten_actions: bool, length: int) -> None:
    inner = gymnasium.make(SPEC, obs_mode="flat", flatten_actions=flatten_actions).unwrapped
    env = MaskInObs(inner, obs_key=obs_key)
    observation, info = env.reset(seed=0)
    assert list(observation) == [obs_key, "action_mask"]
    assert env.observation_space.contains(observation)
    mask = observation["action_mask"]
    assert isinstance(mask, np.ndarray)
    assert mask.shape == (length,)
    assert np.array_equal(mask, np.asarray(info["action_mask"]))
    check_env(env, skip_close_check=True)


def test_a_mask_can_be_merged_into_a_dict_observation() -> None:
    env = MaskInObs(make_grow_toy(), obs_key=None)
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"features", "action_mask"}
    assert env.observation_space.contains(observation)
    stepped = env.step(env.action_space.sample())[0]
    assert env.observation_space.contains(stepped)


def test_a_wrapped_environment_is_wrapped_as_well() -> None:
    env = MaskInObs(gymnasium.make(SPEC, obs_mode="flat"))
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs dict observations"):
        MaskInObs(make_grow_toy(obs_mode="flat"), obs_key=None)
    with pytest.raises(ConfigError, match="name of the mask"):
        MaskInObs(make_grow_toy(), obs_key="action_mask")
    env = make_grow_toy()
    env.action_space = spaces.Tuple([])  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="expected MultiDiscrete"):
        MaskInObs(env)
