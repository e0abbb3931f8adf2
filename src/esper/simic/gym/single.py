"""`GrowthEnv`: one row of any `RolloutEnv` as a `gymnasium.Env`.

One `step` is one decision. Everything random comes from `np_random` by way of the factory's seed; infos hold
no clock time, no NaN and no tensor, so that two equal runs give equal infos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded

from esper.leyline import ConfigError, JsonValue
from esper.simic.gym.session import EpisodeSession
from esper.simic.gym.spaces import GymAction, GymInterface, GymObservation, GymOptions, MaskArray, pick_row
from esper.simic.interfaces import EnvStep, RolloutEnv

SeedToEnv = Callable[[int], RolloutEnv]
"""Seed in [0, 2**63) to a fresh environment of one row that depends on the seed alone."""
SEED_BOUND = 2**63 - 1
_ROW = torch.ones(1, dtype=torch.bool)


class GrowthEnv(gymnasium.Env[GymObservation, GymAction]):
    """A standard environment with action masks; every action is safe to take, an illegal one is a WAIT.

    `info["action_mask"]` is the mask of the observation that it comes with, [M] int8, 1 = valid: for vectors
    of columns one after the other (`split_mask` cuts it), for flat actions one entry per joint action.
    With the last step of an episode come its return, length, reason and what the environment says of it.

    Example:
        env = GrowthEnv(lambda seed: build_grow_toy((seed,)))
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(np.array([1, 0, 1]))
    """

    def __init__(
        self,
        factory: SeedToEnv,
        *,
        options: GymOptions | None = None,
        rules: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> None:
        """Build a first environment to learn the shapes of its inputs.

        Args:
            factory: Called again at each seeded reset; what is dear to build should be shared between calls.
            options: Modes of observation and action; None = dict observations, one column per head.
            rules: Constants of reward and dynamics as plain data, part of `spaces_digest`.
        """
        self._factory = factory
        self._options = GymOptions() if options is None else options
        self.rules = dict(rules)
        self._env = self._build()
        self._interface = GymInterface(self._env, self._options)
        self._session: EpisodeSession | None = None
        self._is_fresh = True
        self.observation_space = self._interface.observation_space
        self.action_space = self._interface.action_space

    @property
    def interface(self) -> GymInterface:
        """Spaces and masks, and `joint_actions`: what each flat action stands for."""
        return self._interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[GymObservation, dict[str, object]]:
        """Begin an episode; with a seed, the same one for the same seed.

        Raises:
            ConfigError: If there are options: none are known.
        """
        super().reset(seed=seed)
        if options:
            raise ConfigError(f"reset options {sorted(options)}: none are known; leave them out")
        if seed is not None:
            self._env.close()
            self._env = self._build()
            self._is_fresh = True
        if self._is_fresh:
            penalty = self._options.invalid_penalty
            self._session = EpisodeSession(self._env, self._interface, invalid_penalty=penalty)
            self._is_fresh = False
        else:
            self._running.begin(_ROW)
        return self._observe(), self._info(is_invalid=False)

    def step(self, action: GymAction) -> tuple[GymObservation, float, bool, bool, dict[str, object]]:
        """Take one action.

        Returns:
            Observation, reward, terminated, truncated, info. Reaching the horizon is a termination.

        Raises:
            ResetNeeded: If there is no running episode.
            ValueError: If the action is outside the space.
        """
        session = self._running
        if bool(session.needs_reset[0]):
            raise ResetNeeded("the episode is over: call reset() before the next step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r}: expected a member of {self.action_space}")
        taken = session.step(torch.as_tensor(np.asarray(action, dtype=np.int64))[None])
        step = taken.transition
        info = self._info(bool(taken.is_invalid[0])) | _terms(step)
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        if terminated or truncated:
            info |= session.final_facts(step, 0)
        return self._observe(), float(step.reward[0]), terminated, truncated, info

    def action_masks(self) -> MaskArray:
        """Return [M] bool, True = valid: the mask of the present observation."""
        mask: MaskArray = self._interface.masks(self._running.inputs)[0]
        return mask

    def telemetry(self) -> dict[str, JsonValue]:
        """Return counts of steps, episodes and illegal actions since the last seeded reset, and the time."""
        return self._running.telemetry()

    def close(self) -> None:
        """Free the environment; harmless when repeated."""
        self._env.close()

    @property
    def _running(self) -> EpisodeSession:
        if self._session is None:
            raise ResetNeeded("call reset() before anything else")
        return self._session

    def _build(self) -> RolloutEnv:
        env = self._factory(int(self.np_random.integers(SEED_BOUND)))
        if env.num_envs != 1:
            raise ValueError(
                f"the factory built {env.num_envs} rows; GrowthEnv needs one, GrowthVectorEnv more"
            )
        env.reset(_ROW)
        return env

    def _observe(self) -> GymObservation:
        return pick_row(self._interface.observations(self._running.inputs), 0)

    def _info(self, is_invalid: bool) -> dict[str, object]:
        return {"action_mask": self.action_masks().astype(np.int8), "action_was_invalid": is_invalid}


def _terms(step: EnvStep) -> dict[str, object]:
    return (
        {"reward_terms": {name: float(share[0]) for name, share in step.terms.items()}} if step.terms else {}
    )
