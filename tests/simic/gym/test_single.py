"""`GrowthEnv` as other libraries check it, and the traps that they set."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3

from esper.leyline import ConfigError, LifecycleOp
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import Array, GymObservation
from esper.simic.gym.toys import make_grow_toy
from esper.simic.toys.growth_optimum import GrowToySolver
from esper.simic.toys.growth_rules import GrowState, advance
from simic.gym.fake_growth import FakeGrowth, make_fake

ENTRY_POINTS = (
    "esper.simic.gym.toys:make_grow_toy",
    "esper.simic.gym.toys:make_masked_recall",
    "simic.gym.fake_growth:make_fake",
)
MODES = [("dict", False), ("dict", True), ("flat", False), ("flat", True)]


def flat(observation: GymObservation) -> Array:
    """The observation of a flat mode."""
    assert isinstance(observation, np.ndarray)
    return observation


def make(entry_point: str, obs_mode: str, flatten_actions: bool) -> GrowthEnv:
    """Build an environment as a registry does."""
    spec = EnvSpec("test/Toy-v0", entry_point=entry_point, nondeterministic=False)
    env = gymnasium.make(spec, obs_mode=obs_mode, flatten_actions=flatten_actions).unwrapped
    assert isinstance(env, GrowthEnv)
    assert env.spec is not None
    return env


@pytest.mark.parametrize(("obs_mode", "flatten_actions"), MODES)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_gymnasium_finds_no_fault(entry_point: str, obs_mode: str, flatten_actions: bool) -> None:
    check_env(make(entry_point, obs_mode, flatten_actions))


@pytest.mark.parametrize(("obs_mode", "flatten_actions"), MODES)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_stable_baselines3_finds_no_fault(entry_point: str, obs_mode: str, flatten_actions: bool) -> None:
    check_sb3(make(entry_point, obs_mode, flatten_actions))


def test_equal_seeds_give_equal_episodes_and_other_seeds_other_ones() -> None:
    first, second = make_grow_toy(obs_mode="flat"), make_grow_toy(obs_mode="flat")
    contexts = []
    for seed in range(8):
        one, other = flat(first.reset(seed=seed)[0]), flat(second.reset(seed=seed)[0])
        assert np.array_equal(one, other)
        contexts.append(int(one[1:5].argmax()))
        assert np.array_equal(flat(first.reset()[0]), flat(second.reset()[0]))
    assert len(set(contexts)) > 1


def test_answers_are_plain_python_and_infos_hold_no_tensor_and_no_clock() -> None:
    env = make_grow_toy()
    _, info = env.reset(seed=0)
    assert set(info) == {"action_mask", "action_was_invalid"}
    for _ in range(16):
        _, reward, terminated, truncated, info = env.step(np.array([0, 0, 0]))
        assert type(reward) is float
        assert type(terminated) is bool
        assert type(truncated) is bool
        mask = info["action_mask"]
        assert isinstance(mask, np.ndarray)
        assert mask.dtype == np.int8
        assert not any(isinstance(value, torch.Tensor) for value in info.values())
    assert terminated
    assert info["episode_return"] == 0.0
    assert info["episode_length"] == 16
    assert info["termination_reason"] == "horizon"
    assert info["context"] in range(4)
    assert not any("second" in key for key in info)
    assert float(str(env.telemetry()["env_seconds"])) > 0.0


def test_an_illegal_action_waits_and_says_so() -> None:
    env = make_fake(invalid_penalty=0.25)
    env.reset(seed=0)
    cull = list(LifecycleOp).index(LifecycleOp.CULL)
    _, reward, _, _, info = env.step(np.array([cull, 0, 0, 0, 0, 0, 0]))
    assert info["action_was_invalid"] is True
    assert reward == -0.25
    assert info["reward_terms"] == {"invalid": -0.25}
    _, reward, _, _, info = env.step(np.array([1, 0, 0, 0, 0, 0, 0]))
    assert info["action_was_invalid"] is False
    assert reward == 1.0


def test_masks_are_those_of_the_observation_they_come_with() -> None:
    env = make_grow_toy(flatten_actions=True)
    _, info = env.reset(seed=0)
    assert np.array_equal(np.asarray(info["action_mask"]), [1, 1, 1, 1, 1, 0, 0, 0, 0])
    _, _, _, _, info = env.step(1)
    assert np.array_equal(np.asarray(info["action_mask"]), [1, 0, 0, 1, 1, 0, 0, 1, 0])
    assert env.action_masks().dtype == np.bool_
    assert np.array_equal(env.action_masks(), np.asarray(info["action_mask"]) == 1)
    union = make_grow_toy()
    _, info = union.reset(seed=0)
    assert np.array_equal(np.asarray(info["action_mask"]), [1, 1, 0, 0, 1, 1, 1, 1])


def test_the_best_plan_reaches_the_optimum_through_flat_actions() -> None:
    env = make_grow_toy(obs_mode="flat", flatten_actions=True)
    numbers = {tuple(row): place for place, row in enumerate(env.interface.joint_actions.tolist())}
    observation, info = env.reset(seed=0)
    plan = GrowToySolver().solve(int(flat(observation)[1:5].argmax()))
    state, is_over = GrowState(), False
    while not is_over:
        move = plan.moves[state]
        state, _ = advance(state, move)
        _, _, is_over, _, info = env.step(numbers[move])
    assert info["episode_return"] == pytest.approx(plan.value, abs=1e-7)


def test_misuse_is_refused() -> None:
    env = make_grow_toy()
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 0, 0]))
    with pytest.raises(ConfigError, match="instance"):
        env.reset(options={"instance": 3})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected a member"):
        env.step(np.array([4, 0, 0]))
    for _ in range(16):
        env.step(np.array([0, 0, 0]))
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 0, 0]))
    with pytest.raises(ValueError, match="needs one"):
        GrowthEnv(lambda seed: FakeGrowth((seed, seed)))


def test_an_environment_is_freed_when_it_is_replaced_and_closing_twice_is_harmless() -> None:
    built: list[FakeGrowth] = []

    def build(seed: int) -> FakeGrowth:
        built.append(FakeGrowth((seed,)))
        return built[-1]

    env = GrowthEnv(build)
    env.reset()
    env.reset()
    assert len(built) == 1
    env.reset(seed=1)
    assert [fake.num_closed for fake in built] == [1, 0]
    env.close()
    env.close()
    assert built[1].num_closed == 2


def test_a_users_time_limit_is_a_truncation() -> None:
    spec = EnvSpec("test/Toy-v0", entry_point=ENTRY_POINTS[0], max_episode_steps=3)
    env = gymnasium.make(spec)
    env.reset(seed=0)
    ends = [env.step(np.array([0, 0, 0]))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_observation_spaces_are_one_level_deep() -> None:
    space: object = make_fake().observation_space
    assert isinstance(space, spaces.Dict)
    assert all(isinstance(part, spaces.Box) for part in space.spaces.values())
