"""Wrappers for libraries that look for the action mask inside the observation."""

from __future__ import annotations

from typing import cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from esper.leyline import ConfigError
from esper.simic.gym.spaces import GymAction, GymObservation, Int8Array

MASK_KEY = "action_mask"
Masked = dict[str, GymObservation | Int8Array]


class MaskInObs(gymnasium.ObservationWrapper[Masked, GymAction, GymObservation], RecordConstructorArgs):
    """Puts the mask beside the observation, as [M] int8 under "action_mask".

    Example:
        MaskInObs(GrowthEnv(...))                           # {"obs": observation, "action_mask": mask}
        MaskInObs(GrowthEnv(...), obs_key="observations")   # the other spelling that is in use
        MaskInObs(GrowthEnv(...), obs_key=None)             # {**observation, "action_mask": mask}
    """

    def __init__(self, env: gymnasium.Env[GymObservation, GymAction], obs_key: str | None = "obs") -> None:
        """Extend the observation space.

        Args:
            env: A `GrowthEnv`, wrapped or not: its `action_masks` must be reachable.
            obs_key: Name for the whole observation; None merges the mask into a dict observation.

        Raises:
            ConfigError: If there is nothing to merge the mask into, or the key is the mask's own.
        """
        RecordConstructorArgs.__init__(self, obs_key=obs_key)
        gymnasium.ObservationWrapper.__init__(self, env)
        inner: object = env.observation_space
        if obs_key == MASK_KEY:
            raise ConfigError(
                f"obs_key={obs_key!r}: that is the name of the mask; use 'obs' or 'observations'"
            )
        if obs_key is None and not isinstance(inner, spaces.Dict):
            raise ConfigError("obs_key=None needs dict observations: name a key, or use obs_mode='dict'")
        self._obs_key = obs_key
        parts: dict[str, spaces.Space[object]] = {}
        if obs_key is None:
            assert isinstance(inner, spaces.Dict)
            parts |= inner.spaces
        else:
            parts[obs_key] = cast("spaces.Space[object]", inner)
        length = _mask_length(env.action_space)
        parts[MASK_KEY] = cast("spaces.Space[object]", spaces.Box(0, 1, (length,), np.int8))
        self.observation_space = cast("spaces.Space[Masked]", spaces.Dict(parts))

    def observation(self, observation: GymObservation) -> Masked:
        """Return the observation with the mask that belongs to it."""
        mask = self.env.get_wrapper_attr("action_masks")().astype(np.int8)
        if self._obs_key is None:
            return {**cast("dict[str, GymObservation]", observation), MASK_KEY: mask}
        return {self._obs_key: observation, MASK_KEY: mask}


def _mask_length(space: object) -> int:
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ConfigError(f"{space}: expected MultiDiscrete or Discrete actions")
