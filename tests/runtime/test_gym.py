"""Gymnasium ids: every one can be made, real hosts pass the checkers, and a digest pins what they promise."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import esper.runtime.gym as registration
from esper.leyline import UnknownNameError
from esper.simic.gym.spaces import spaces_digest
from esper.simic.gym.vector import GrowthVectorEnv
from esper.tamiyo import PRIVILEGED

EPOCHS = 4
PINNED = {
    "esper/GrowToy-v0": "ba8e0d427a1ee598aba58a5cd0b21cd96d86b9ce0492d54484ab36090730b3d6",
    "esper/MaskedRecall-v0": "6b017454f72d22e101abe6ac97a6c0b14f7d2a0accdf5d92c9fff1e4484bf7ff",
    "esper/GrowDigits-v0": "9d5ccd6d85c47ced40dca33bd4bbe86d4e8de47d6ec36440826a85501140c8bd",
}
"""Id -> digest of spaces, reward settings and task."""


def test_every_id_is_registered_and_registering_again_is_harmless() -> None:
    registration.register_all()
    for name in (*registration.HOST_IDS, *registration.TOY_IDS):
        spec = gymnasium.spec(name)
        assert spec.max_episode_steps is None
        assert spec.vector_entry_point is not None


def test_the_horizon_of_a_host_is_an_argument_and_ends_the_episode_for_good() -> None:
    env = gymnasium.make("esper/GrowDigits-v0", epochs=EPOCHS)
    env.reset(seed=0)
    wait = np.zeros(7, dtype=np.int64)
    steps = [env.step(wait) for _ in range(EPOCHS)]
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * (EPOCHS - 1) + [True]
    assert sum(float(reward) for _, reward, _, _, _ in steps) == pytest.approx(0.0, abs=1e-6)
    assert steps[-1][4]["termination_reason"] == "horizon"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"obs_mode": "flat", "flatten_actions": True}])
def test_a_growing_host_passes_both_checkers(settings: dict[str, object]) -> None:
    env = gymnasium.make("esper/GrowDigits-v0", epochs=EPOCHS, **settings)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not within the observation space.*")
        check_env(env.unwrapped, skip_render_check=True)
    check_env_of_sb3(env.unwrapped, warn=True)


@pytest.mark.slow
def test_vectors_of_hosts_are_made_by_the_registry() -> None:
    env = gymnasium.make_vec("esper/GrowDigits-v0", num_envs=2, epochs=EPOCHS)
    assert isinstance(env, GrowthVectorEnv)
    _, infos = env.reset(seed=3)
    mask, space = infos["action_mask"], env.single_action_space
    assert isinstance(mask, np.ndarray)
    assert isinstance(space, gymnasium.spaces.MultiDiscrete)
    assert mask.shape == (2, int(space.nvec.sum()))
    env.close()


@pytest.mark.parametrize("name", ["gymnasium", "vector"])
def test_what_only_our_critic_may_know_is_no_part_of_a_public_observation(name: str) -> None:
    """The never-grown life: a policy of another library that saw it could not be used in the field."""
    env = (
        gymnasium.make("esper/GrowDigits-v0", epochs=EPOCHS).unwrapped
        if name == "gymnasium"
        else gymnasium.make_vec("esper/GrowDigits-v0", num_envs=1, epochs=EPOCHS)
    )
    seen, _ = env.reset(seed=3)
    assert isinstance(seen, dict)
    assert "global" in seen
    assert PRIVILEGED not in seen
    env.close()


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        registration.make_growth(task="digit")


@pytest.mark.parametrize("name", list(PINNED))
def test_what_an_id_promises_changes_only_with_its_version(name: str) -> None:
    env = gymnasium.make(name)
    digest = spaces_digest(env.unwrapped)
    assert digest == PINNED[name], f"{name} changed: raise its version and pin {digest}"
