"""Known environments for learning tests: a pole without velocities, and a choice under changing masks.

Example:
    env = build_pole(seeds=(0, 1, 2, 3))          # memory is needed; 500 steps are a true truncation
    env = build_invalid_actions(seeds=(0, 1))     # 55 of 70 actions are illegal, others at every step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.envs import InvalidActionEnvDiscrete

from esper.simic.gym.rollout import GymRolloutEnv

T = TypeVar("T")


class NoVelocities(gymnasium.ObservationWrapper[NDArray[np.float32], int, NDArray[np.float32]]):
    """CartPole that shows place and angle only, [2], scaled to about [-1, 1]."""

    def __init__(self, env: gymnasium.Env[NDArray[np.float32], int]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray([observation[0] / 2.4, observation[2] / 0.2095], dtype=np.float32)


class OwnRandomState(gymnasium.Wrapper[int, int, int, int]):
    """Gives an environment that draws from numpy's global generator one of its own, seeded at each reset."""

    def __init__(self, env: gymnasium.Env[int, int]) -> None:
        super().__init__(env)
        self._state = np.random.RandomState(0).get_state()

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[int, dict[str, object]]:
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self.env.action_space.seed(seed)
        return self._inside(lambda: self.env.reset(seed=seed, options=options))

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, object]]:
        observation, reward, terminated, truncated, info = self._inside(lambda: self.env.step(action))
        return observation, float(reward), terminated, truncated, info

    def _inside(self, call: Callable[[], T]) -> T:
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            return call()
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)


def build_pole(seeds: Sequence[int]) -> GymRolloutEnv:
    """Return rows of CartPole without velocities, cut off after 500 steps."""
    return GymRolloutEnv(lambda: NoVelocities(gymnasium.make("CartPole-v1")), seeds)


def build_invalid_actions(
    seeds: Sequence[int], *, num_actions: int = 70, num_invalid: int = 55
) -> GymRolloutEnv:
    """Return rows that ask for the action that is shown, while most others are illegal; 100 steps each."""

    def build() -> OwnRandomState:
        outside = np.random.get_state()  # the constructor draws a first state
        inner = InvalidActionEnvDiscrete(dim=num_actions, n_invalid_actions=num_invalid)
        np.random.set_state(outside)
        return OwnRandomState(inner)

    return GymRolloutEnv(build, seeds)
