"""Stable-Baselines3, sb3-contrib and TorchRL take our environments; covers simic/gym/sb3_vec_env.py."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from esper.leyline import ConfigError
from esper.simic.gym.sb3 import as_sb3_vec_env
from esper.simic.gym.sb3_vec_env import Sb3VecEnv
from esper.simic.gym.toys import make_grow_toy, make_grow_toy_vector, make_masked_recall_vector
from esper.simic.gym.wrappers import MaskInObs

RANDOM_RETURN = -0.019301
"""Mean return of the uniform policy on GrowToy."""


def build(num_envs: int = 2, *, limit: int | None = None) -> Sb3VecEnv:
    """Return GrowToy with flat observations."""
    return as_sb3_vec_env(make_grow_toy_vector(num_envs, obs_mode="flat", max_episode_steps=limit))


def test_an_end_at_the_horizon_is_no_time_limit() -> None:
    env = build()
    env.seed(3)
    first = env.reset()
    for _ in range(16):
        observations, rewards, dones, infos = env.step(np.zeros((2, 3), dtype=np.int64))
    assert dones.tolist() == [True, True]
    assert rewards.dtype == np.float32
    for row, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is False
        assert info["terminal_observation"][0] == 0.0
        assert info["episode_length"] == 16
        assert np.asarray(observations)[row, 0] == 1.0
    env.seed(3)
    assert np.array_equal(np.asarray(env.reset()), np.asarray(first))


def test_an_abandoned_episode_is_a_time_limit() -> None:
    env = build(limit=2)
    env.reset()
    env.step(np.zeros((2, 3), dtype=np.int64))
    _, _, dones, infos = env.step(np.zeros((2, 3), dtype=np.int64))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]
    assert infos[0]["terminal_observation"][0] == pytest.approx(14 / 16)


def test_masks_are_found_where_they_are_looked_for() -> None:
    env = build(3)
    env.reset()
    assert is_masking_supported(env)
    masks = get_action_masks(env)
    assert masks.shape == (3, 8)
    assert masks.dtype == np.bool_
    assert np.array_equal(masks[1], np.asarray(env.env_method("action_masks", indices=1)[0]))
    assert [info["action_mask"].tolist() for info in env.reset_infos] == masks.astype(int).tolist()
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert not env.has_attr("no_such_thing")
    assert env.env_is_wrapped(Monitor) == [False] * 3
    with pytest.raises(AttributeError, match="no attributes of their own"):
        env.set_attr("x", 1)
    with pytest.raises(AttributeError, match="'action_masks' only"):
        env.env_method("render")
    env.close()


def test_other_autoreset_modes_are_refused() -> None:
    with pytest.raises(ConfigError, match="expects 'SameStep'"):
        as_sb3_vec_env(make_grow_toy_vector(2, autoreset_mode="NextStep"))


def test_without_stable_baselines3_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "esper.simic.gym.sb3_vec_env", None)
    with pytest.raises(ConfigError, match="pip install stable-baselines3"):
        as_sb3_vec_env(make_grow_toy_vector(2))


@pytest.mark.slow
@pytest.mark.parametrize(("obs_mode", "policy"), [("flat", "MlpPolicy"), ("dict", "MultiInputPolicy")])
@pytest.mark.parametrize("flatten_actions", [False, True])
def test_maskable_ppo_learns_through_the_vector(obs_mode: str, policy: str, flatten_actions: bool) -> None:
    vector = make_grow_toy_vector(4, obs_mode=obs_mode, flatten_actions=flatten_actions)
    env = VecMonitor(as_sb3_vec_env(vector))
    model = MaskablePPO(policy, env, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
    model.learn(256)
    if flatten_actions:
        assert vector.telemetry()["num_invalid_actions"] == 0
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) == 16


@pytest.mark.slow
def test_maskable_ppo_beats_random_after_2k_steps() -> None:
    env = make_grow_toy(obs_mode="flat", flatten_actions=True)
    model = MaskablePPO("MlpPolicy", env, n_steps=128, learning_rate=2e-3, seed=1, device="cpu")
    model.learn(2048)
    returns = []
    for seed in range(60):
        observation, info = env.reset(seed=1000 + seed)
        is_over = False
        while not is_over:
            action, _ = model.predict(observation, action_masks=env.action_masks())
            observation, _, is_over, _, info = env.step(int(action))
        returns.append(float(str(info["episode_return"])))
    assert float(np.mean(returns)) > RANDOM_RETURN


@pytest.mark.slow
def test_recurrent_ppo_runs_without_masks() -> None:
    env = as_sb3_vec_env(make_masked_recall_vector(2, corridor=2, obs_mode="flat"))
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    assert model.num_timesteps == 64


@pytest.mark.slow
@pytest.mark.parametrize("flatten_actions", [False, True])
def test_torchrl_steps_and_keeps_the_kind_of_action(flatten_actions: bool) -> None:
    envs = pytest.importorskip("torchrl.envs")
    wrapped = MaskInObs(make_grow_toy(obs_mode="flat", flatten_actions=flatten_actions))
    env = envs.GymWrapper(wrapped, categorical_action_encoding=True)
    width = 9 if flatten_actions else 8
    assert env.action_spec.shape == torch.Size([] if flatten_actions else [3])
    start = env.reset()
    assert start["action_mask"].shape == (width,)
    start["action"] = env.action_spec.rand()
    step = env.step(start)
    assert step["next", "obs"].shape == (25,)
    assert step["next", "reward"].shape == (1,)
    env.close()
