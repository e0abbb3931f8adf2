"""The way back: any `gymnasium.Env` with discrete actions as a `RolloutEnv`, for our learner to train on.

Observations become "features" [E, D] float32 as `gymnasium.spaces.flatten` makes them; masks come from the
environment's own `action_masks()` where it has one. A time limit stays a true truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast, final

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue, derive_seed
from esper.simic.gym.spaces import ActT, ObsT
from esper.simic.interfaces import EnvStep
from esper.tamiyo import ActionLayout, PolicyInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

ScalarT = TypeVar("ScalarT", bound=np.generic)

_SEED_BOUND = 2**32
"""Old generators of numpy take no larger seeds."""
_MASK_METHOD = "action_masks"


@final
class GymRolloutEnv:
    """E environments of one kind, stepped one after the other.

    What an environment answers must have the shape of its spaces; numbers that are not finite are passed on,
    for the collector to quarantine. Episode k of a row is reset with a seed that depends on (seed of the row,
    k) alone. A checkpoint holds the actions of the running episodes and plays them again: exact where equal
    seeds give equal episodes.

    Example:
        GymRolloutEnv(lambda: gymnasium.make("CartPole-v1"), seeds=(0, 1, 2, 3))
    """

    def __init__(self, build: Callable[[], gymnasium.Env[ObsT, ActT]], seeds: Sequence[int]) -> None:
        """Build one environment per seed; `reset` begins their first episodes.

        Args:
            build: Makes one environment with a `Discrete` action space that starts at 0.
            seeds: [E] seed of each row.

        Raises:
            ConfigError: If there is no seed, the actions are of another kind, or rows differ in their spaces.
        """
        if not seeds:
            raise ConfigError("GymRolloutEnv needs at least one seed: one row per seed")
        self._envs = [cast("gymnasium.Env[object, object]", build()) for _ in seeds]
        space = self._envs[0].action_space
        if not isinstance(space, spaces.Discrete) or int(space.start) != 0:
            raise ConfigError(f"{space}: GymRolloutEnv takes Discrete actions that start at 0")
        self._check_alike()
        self._num_actions = int(space.n)
        self._layout = ActionLayout(
            op_names=tuple(f"A{index}" for index in range(self._num_actions)),
            uses={"op": (True,) * self._num_actions},
        )
        self._seeds = tuple(seeds)
        self._episodes = [-1] * len(seeds)
        self._actions: list[list[int]] = [[] for _ in seeds]
        self._is_running = [False] * len(seeds)
        self._returns = [0.0] * len(seeds)
        width = spaces.flatdim(self._envs[0].observation_space)
        self._features = np.zeros((len(seeds), width), dtype=np.float32)
        self._masks = np.ones((len(seeds), self._num_actions), dtype=np.bool_)

    @property
    def num_envs(self) -> int:
        """E."""
        return len(self._seeds)

    @property
    def layout(self) -> ActionLayout:
        """One head with the actions of the environment."""
        return self._layout

    @property
    def names(self) -> tuple[str, ...]:
        """[E] id or class of the environment, and place of the row."""
        first = self._envs[0]
        kind = type(first.unwrapped).__name__ if first.spec is None else first.spec.id
        return tuple(f"{kind}/{row}" for row in range(self.num_envs))

    def reset(self, mask: Tensor) -> None:
        """Begin the next episode in the rows where `mask` [E] bool is True."""
        for row in mask.nonzero().flatten().tolist():
            self._begin(row, self._episodes[row] + 1)

    def observe(self) -> PolicyInputs:
        """Return "features" [E, D] and "mask_op" [E, A]; zeros and all legal before the first episode."""
        return {
            "features": torch.from_numpy(self._features.copy()),
            "mask_op": torch.from_numpy(self._masks.copy()),
        }

    def step(self, actions: Tensor) -> EnvStep:
        """Carry out one action per row, [E, 1] int64; what an illegal one does is up to the environment."""
        was_running = torch.tensor(self._is_running)
        reward = torch.zeros(self.num_envs)
        terminated, truncated = torch.zeros_like(was_running), torch.zeros_like(was_running)
        for row in was_running.nonzero().flatten().tolist():
            reward[row], terminated[row], truncated[row] = self._advance(row, int(actions[row, 0]))
        ended = (terminated | truncated).tolist()
        return EnvStep(
            inputs=self.observe(),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            is_valid=was_running,
            summaries=tuple(
                self._summary(row, bool(terminated[row])) if ended[row] else None
                for row in range(self.num_envs)
            ),
        )

    def state(self) -> dict[str, JsonValue | Tensor]:
        """Return seeds, episode numbers and the actions of the running episodes."""
        return {
            "seeds": list(self._seeds),
            "episodes": list(self._episodes),
            "actions": [list(actions) for actions in self._actions],
        }

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        """Put back what `state` returned, by playing the running episodes again.

        Raises:
            ForeignCheckpointError: If the state belongs to other seeds.
        """
        if state["seeds"] != list(self._seeds):
            raise ForeignCheckpointError(
                f"gymnasium rows: the state has seeds {state['seeds']!r}, these rows "
                f"{list(self._seeds)!r}; build them with the same seeds"
            )
        episodes = cast("Sequence[int]", state["episodes"])
        for row, actions in enumerate(cast("Sequence[Sequence[int]]", state["actions"])):
            if episodes[row] < 0:
                continue
            self._begin(row, episodes[row])
            for action in actions:
                self._advance(row, action)

    def close(self) -> None:
        """Close every environment; harmless when repeated."""
        for env in self._envs:
            env.close()

    def _check_alike(self) -> None:
        first = self._envs[0]
        for row, env in enumerate(self._envs):
            for name in ("action_space", "observation_space"):
                expected, found = getattr(first, name), getattr(env, name)
                if found != expected:
                    raise ConfigError(
                        f"row {row} has {name} {found}, row 0 has {expected}: build environments of one kind"
                    )

    def _begin(self, row: int, episode: int) -> None:
        self._episodes[row] = episode
        self._actions[row] = []
        self._returns[row] = 0.0
        self._is_running[row] = True
        seed = derive_seed(self._seeds[row], "gymnasium", episode) % _SEED_BOUND
        observation, _ = self._envs[row].reset(seed=seed)
        self._keep(row, observation)

    def _advance(self, row: int, action: int) -> tuple[float, bool, bool]:
        observation, reward, terminated, truncated, _ = self._envs[row].step(action)
        self._actions[row].append(action)
        self._returns[row] += float(reward)
        self._is_running[row] = not (terminated or truncated)
        self._keep(row, observation)
        return float(reward), bool(terminated), bool(truncated) and not bool(terminated)

    def _keep(self, row: int, observation: object) -> None:
        env = self._envs[row]
        features = np.asarray(spaces.flatten(env.observation_space, observation))
        self._features[row] = self._checked(row, "its observation", features, self._features.shape[1])
        if env.has_wrapper_attr(_MASK_METHOD):
            mask = np.asarray(env.get_wrapper_attr(_MASK_METHOD)(), dtype=np.bool_)
            self._masks[row] = self._checked(row, f"{_MASK_METHOD}()", mask, self._num_actions)

    def _checked(self, row: int, what: str, values: NDArray[ScalarT], length: int) -> NDArray[ScalarT]:
        """Refuse what numpy would stretch to the length of the row."""
        if values.shape != (length,):
            raise ConfigError(
                f"{self.names[row]}: {what} has shape {values.shape}; by its spaces it is {(length,)}"
            )
        return values

    def _summary(self, row: int, is_terminated: bool) -> dict[str, JsonValue]:
        return {
            "return": self._returns[row],
            "length": len(self._actions[row]),
            "reason": "terminated" if is_terminated else "time_limit",
        }
