"""`GrowthVectorEnv` as a Stable-Baselines3 `VecEnv`: four return values, one info per row, no reset by hand.

The only file that imports stable_baselines3; `gym/sb3.py` imports it when asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn

from esper.leyline import ConfigError
from esper.simic.gym.spaces import IntArray
from esper.simic.gym.vector import GrowthVectorEnv

if TYPE_CHECKING:
    import gymnasium

_Indices = None | int | Iterable[int]


class Sb3VecEnv(VecEnv):
    """Rows of a `GrowthVectorEnv` for Stable-Baselines3 and sb3-contrib.

    A row that ends has `terminal_observation` in its info, and `TimeLimit.truncated` = True only if its
    episode was abandoned from outside: reaching the horizon is a termination and is not bootstrapped.
    """

    def __init__(self, vector_env: GrowthVectorEnv) -> None:
        """Wrap a vector.

        Raises:
            ConfigError: If its rows do not begin anew in the step in which they end.
        """
        if vector_env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"autoreset_mode={vector_env.autoreset_mode.value!r}: Stable-Baselines3 expects 'SameStep'"
            )
        self._vector_env = vector_env
        self._actions: IntArray | None = None
        super().__init__(
            vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space
        )

    def reset(self) -> VecEnvObs:
        """Begin new episodes in all rows, with the seeds of the last call of `seed`."""
        seeds = [seed for seed in self._seeds if seed is not None]
        observations, infos = self._vector_env.reset(seed=seeds or None)
        self.reset_infos = self._split_infos(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: IntArray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the kept actions.

        Returns:
            Observations, rewards [E] float32, dones [E], [E] infos.
        """
        assert self._actions is not None, "step_wait() comes after step_async()"
        observations, rewards, terminated, truncated, infos = self._vector_env.step(self._actions)
        self._actions = None
        rows = self._split_infos(infos)
        for row in np.flatnonzero(terminated | truncated):
            final = rows[row].pop("final_info")
            assert isinstance(final, dict)
            rows[row] = final | {
                "terminal_observation": rows[row]["final_obs"],
                "TimeLimit.truncated": bool(truncated[row]) and not bool(terminated[row]),
            }
        return observations, rewards.astype(np.float32), terminated | truncated, rows

    def close(self) -> None:
        """Free the environment."""
        self._vector_env.close()

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[object]:
        """Return an attribute of the vector once per row.

        Raises:
            AttributeError: If the vector has no such attribute.
        """
        value: object = getattr(self._vector_env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: object, indices: _Indices = None) -> None:
        """Refuse: rows have no attributes of their own.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"{attr_name!r}: rows of a vector have no attributes of their own")

    def env_method(
        self, method_name: str, *method_args: object, indices: _Indices = None, **method_kwargs: object
    ) -> list[object]:
        """Return [M] bool per row for "action_masks", the only method that rows have.

        Raises:
            AttributeError: If another method is asked for.
        """
        if method_name != "action_masks":
            raise AttributeError(f"{method_name!r}: rows of a vector have the method 'action_masks' only")
        masks = self._vector_env.action_masks()
        return [masks[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: _Indices = None) -> list[bool]:
        """Return False for every row: there is nothing between the rows and this vector."""
        return [False for _ in self._get_indices(indices)]

    def _split_infos(self, infos: dict[str, object]) -> list[dict[str, object]]:
        return [_pick_info(infos, row) for row in range(self.num_envs)]


def _pick_info(infos: dict[str, object], row: int) -> dict[str, object]:
    """Return the info of one row: the entries whose mask is True there."""
    picked: dict[str, object] = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if not isinstance(mask, np.ndarray) or not mask[row]:
            continue
        if isinstance(value, dict):
            picked[key] = _pick_info(value, row)
        elif isinstance(value, np.ndarray | Sequence):
            entry = value[row]
            picked[key] = entry.item() if isinstance(entry, np.generic) else entry
    return picked
