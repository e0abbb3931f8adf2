"""Spaces of a `RolloutEnv`: finite float32 boxes for what a policy sees, whole numbers for what it does.

```
PolicyInputs --observations()--> Dict of Box, or one flat Box      masks are left out: they travel in info
             --masks()---------> [E, M] bool
an action of the space --resolve()--> [E, H] int64 to be carried out, and which rows were illegal
```
Shapes: E rows, H heads, M length of a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast, final

import numpy as np
import torch
from gymnasium import Env, Space, spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from esper.leyline import (
    BLUEPRINT_FAMILIES,
    FEATURE_BOUND,
    ConfigError,
    JsonValue,
    UnknownNameError,
    canonical_hash,
)
from esper.simic.gym.actions import build_action_table
from esper.simic.interfaces import RolloutEnv
from esper.tamiyo import PRIVILEGED, PolicyInputs

Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
MaskArray = NDArray[np.bool_]
Int8Array = NDArray[np.int8]
GymObservation = Array | dict[str, Array]
"""One observation, or a batch of them with a first dimension E."""
GymAction = IntArray | int
"""One action: [H], or with flat actions a number."""

ObsT = TypeVar("ObsT")
ActT = TypeVar("ActT")
ArrayT = TypeVar("ArrayT")

OBS_MODES = ("dict", "flat")
_MASK_PREFIX = "mask_"
_INDEX_BOUND = max(FEATURE_BOUND, float(len(BLUEPRINT_FAMILIES)))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GymOptions:
    """How an environment presents itself to other libraries."""

    obs_mode: str = "dict"
    """"dict": one vector per input, by name; "flat": all of them in one vector, in the order of their names.
    Inputs per slot are laid out row by row; `GymInterface.shapes` has what to reshape them to."""
    flatten_actions: bool = False
    """False: MultiDiscrete, one column per head; True: Discrete over all joint actions."""
    invalid_penalty: float = 0.0
    """Subtracted from the reward of a step whose action was illegal (>= 0); 0: such a step is just a WAIT."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: If a value is unknown or out of range.
        """
        if self.obs_mode not in OBS_MODES:
            raise UnknownNameError("obs_mode", self.obs_mode, OBS_MODES)
        if not 0.0 <= self.invalid_penalty < float("inf"):
            raise ConfigError(f"invalid_penalty={self.invalid_penalty}: must be finite and >= 0, e.g. 0.01")


@final
class GymInterface:
    """Spaces of one row of an environment, and the way in and out of them."""

    def __init__(self, env: RolloutEnv, options: GymOptions) -> None:
        """Read the shapes of the environment's inputs; rows must have begun an episode.

        Args:
            env: Any number of rows; all later observations must have the same shapes.
            options: Modes of observation and action.
        """
        inputs = env.observe()
        self._options = options
        self._table = build_action_table(env.layout, inputs)
        self._boxes = {
            key: _build_box(value)
            for key, value in sorted(inputs.items())
            if not key.startswith(_MASK_PREFIX) and key != PRIVILEGED  # no actor may see that one
        }
        self._shapes = {key: tuple(inputs[key].shape[1:]) for key in self._boxes}
        self._names = env.names

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input -> shape before it was laid out as a vector, e.g. slots x features."""
        return dict(self._shapes)

    @property
    def observation_space(self) -> Space[GymObservation]:
        """A fresh space of one observation."""
        boxes = self._boxes.values()
        if self._options.obs_mode == "dict":
            fresh = (spaces.Box(box.low, box.high, dtype=np.float32) for box in boxes)
            return cast("Space[GymObservation]", spaces.Dict(dict(zip(self._boxes, fresh, strict=True))))
        low = np.concatenate([box.low for box in boxes])
        high = np.concatenate([box.high for box in boxes])
        return cast("Space[GymObservation]", spaces.Box(low, high, dtype=np.float32))

    @property
    def action_space(self) -> Space[GymAction]:
        """A fresh space of one action."""
        if self._options.flatten_actions:
            return cast("Space[GymAction]", spaces.Discrete(len(self._table.joint_actions)))
        return cast("Space[GymAction]", spaces.MultiDiscrete(list(self._table.sizes)))

    @property
    def joint_actions(self) -> Tensor:
        """[N, H] int64: what each number of the flat action space stands for."""
        return self._table.joint_actions

    def observations(self, inputs: PolicyInputs) -> GymObservation:
        """Return E observations in fresh arrays, clipped to the bounds of the space.

        Raises:
            ValueError: If a number is not finite, naming the input and the row.
        """
        arrays = {key: self._clip(key, inputs[key]) for key in self._boxes}
        if self._options.obs_mode == "dict":
            return arrays
        flat: Array = np.concatenate(list(arrays.values()), axis=1)
        return flat

    def masks(self, inputs: PolicyInputs) -> MaskArray:
        """Return [E, M] bool, True = valid: exact for numbers, the union per column for vectors."""
        flat = self._options.flatten_actions
        mask = self._table.exact_mask(inputs) if flat else self._table.union_mask(inputs)
        array: MaskArray = mask.numpy()
        return array

    def resolve(self, actions: Tensor, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Return [E, H] int64 what is to be carried out, and [E] bool which actions were illegal.

        Args:
            actions: [E, H] or, with flat actions, [E], int64, within the space.
            inputs: Observations that the actions answer.
        """
        joint = self._table.joint_actions[actions] if self._options.flatten_actions else actions
        return self._table.resolve(joint, inputs)

    def _clip(self, key: str, value: Tensor) -> Array:
        box = self._boxes[key]
        finite = torch.isfinite(value.flatten(1)).all(dim=-1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise ValueError(f"{self._names[row]}: input {key!r} holds a number that is not finite")
        clipped: Array = np.clip(value.flatten(1).float().numpy(), box.low, box.high, dtype=np.float32)
        return clipped


def pick_row(observations: GymObservation, row: int) -> GymObservation:
    """Return one row of a batch of observations, as a copy."""
    if isinstance(observations, dict):
        return {key: array[row].copy() for key, array in observations.items()}
    picked: Array = observations[row].copy()
    return picked


def split_mask(mask: MaskArray | Int8Array, sizes: Iterable[int]) -> tuple[Int8Array, ...]:
    """Cut a concatenated mask into one int8 array per column, as `MultiDiscrete.sample(mask=...)` wants it.

    Args:
        mask: [M] of one row.
        sizes: Number of choices of each column, `action_space.nvec`.

    Raises:
        ValueError: If the sizes do not add up to the length of the mask.
    """
    counts = [int(size) for size in sizes]
    if mask.shape != (sum(counts),):
        raise ValueError(f"mask of shape {mask.shape}: expected ({sum(counts)},), the sum of {counts}")
    return tuple(np.split(mask.astype(np.int8), np.cumsum(counts)[:-1]))


def spaces_digest(env: Env[ObsT, ActT] | VectorEnv[ObsT, ActT, ArrayT]) -> str:
    """Return a SHA-256 over spaces and rules of an environment: a test pins one per registered id.

    A changed digest asks for a new version of the id. A vector has the digest of one of its rows.

    Raises:
        TypeError: If the environment is not one of ours.
    """
    inner: Env[ObsT, ActT] | VectorEnv[ObsT, ActT, ArrayT] = env.unwrapped
    rules = getattr(inner, "rules", None)
    if not isinstance(rules, Mapping):
        raise TypeError(f"{inner}: has no rules; expected a GrowthEnv or a GrowthVectorEnv")
    if isinstance(inner, VectorEnv):
        seen, done = inner.single_observation_space, inner.single_action_space
    else:
        seen, done = inner.observation_space, inner.action_space
    described = {"observation": _describe(seen), "action": _describe(done), "rules": dict(rules)}
    return canonical_hash(described)


def _build_box(value: Tensor) -> spaces.Box:
    shape = (value[0].numel(),)
    if value.dtype is torch.bool:
        return spaces.Box(0.0, 1.0, shape, np.float32)
    if value.is_floating_point():
        return spaces.Box(-FEATURE_BOUND, FEATURE_BOUND, shape, np.float32)
    return spaces.Box(0.0, _INDEX_BOUND, shape, np.float32)


def _describe(space: Space[object]) -> JsonValue:
    if isinstance(space, spaces.Dict):
        return {key: _describe(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        bounds = (space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist())
        return {"box": list(space.shape), "dtype": str(space.dtype), "low": bounds[0], "high": bounds[1]}
    if isinstance(space, spaces.MultiDiscrete):
        return {"multi_discrete": [int(size) for size in space.nvec]}
    if isinstance(space, spaces.Discrete):
        return {"discrete": int(space.n)}
    raise TypeError(f"{space}: expected Dict, Box, MultiDiscrete or Discrete")
