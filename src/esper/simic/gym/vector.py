"""`GrowthVectorEnv`: E rows of any `RolloutEnv` as a `gymnasium.vector.VectorEnv`, in lockstep.

```
SAME_STEP  default: a row that ends begins anew in the same step; info["final_obs"] has its last observation
NEXT_STEP  the step after the last one ignores the action and returns the first observation, reward 0
DISABLED   the caller resets ended rows: reset(options={"reset_mask": ...})
```
Row i with seed s + i equals a `GrowthEnv` with that seed. numpy at the boundary; `step_torch` goes without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from esper.leyline import ConfigError, JsonValue
from esper.simic.gym.session import EpisodeSession
from esper.simic.gym.single import SEED_BOUND
from esper.simic.gym.spaces import GymInterface, GymObservation, GymOptions, IntArray, MaskArray, pick_row
from esper.simic.interfaces import EnvStep, RolloutEnv
from esper.tamiyo import PolicyInputs

SeedsToEnv = Callable[[tuple[int, ...]], RolloutEnv]
"""[E] seeds to a fresh environment of E rows; row i depends on seed i alone."""
_StepReturn = tuple[GymObservation, NDArray[np.float64], MaskArray, MaskArray, dict[str, object]]


class TorchStep(NamedTuple):
    """One step without numpy."""

    inputs: PolicyInputs
    """What to decide from next, masks included, [E, ...]; after an autoreset of the new episode."""
    transition: EnvStep
    """What the actions led to; its inputs are the true next observations, final ones included. Rows that a
    NEXT_STEP autoreset has just begun are not valid."""
    is_invalid: Tensor
    """[E] bool: the action was illegal."""
    facts: Mapping[int, Mapping[str, JsonValue]]
    """Row -> return, length, reason and summary of its episode, for the rows that ended with this step."""


class GrowthVectorEnv(VectorEnv[GymObservation, IntArray, NDArray[np.generic]]):
    """E rows that step together; infos as those of gymnasium's own vectors.

    Example:
        env = GrowthVectorEnv(build_grow_toy, num_envs=8)
        observations, infos = env.reset(seed=0)
        infos["action_mask"]  # [8, M] int8
    """

    def __init__(
        self,
        factory: SeedsToEnv,
        num_envs: int,
        *,
        options: GymOptions | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        rules: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> None:
        """Build a first environment to learn the shapes of its inputs.

        Args:
            factory: Called again at each seeded reset.
            num_envs: E >= 1.
            options: Modes of observation and action; None = dict observations, one column per head.
            autoreset_mode: When an ended row begins anew; a member or its value.
            max_episode_steps: Steps after which an episode is abandoned: a true truncation; None = never.
            rules: Constants of reward and dynamics as plain data, part of `spaces_digest`.

        Raises:
            ConfigError: If a number is out of range.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs={num_envs}: must be >= 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps={max_episode_steps}: must be >= 1, or None for no limit")
        self.num_envs = num_envs
        self.rules = dict(rules)
        self._factory = factory
        self._options = GymOptions() if options is None else options
        self._max_episode_steps = max_episode_steps
        self._mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self._mode}
        self._env = self._build(self._draw_seeds())
        self._interface = GymInterface(self._env, self._options)
        self._session = self._start()
        self._is_fresh = True
        self.single_observation_space = self._interface.observation_space
        self.single_action_space = self._interface.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def interface(self) -> GymInterface:
        """Spaces and masks, and `joint_actions`: what each flat action stands for."""
        return self._interface

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When an ended row begins anew."""
        return self._mode

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, object] | None = None
    ) -> tuple[GymObservation, dict[str, object]]:
        """Begin episodes, in all rows or in those of a mask.

        Args:
            seed: s: rows get s, s + 1, ...; or [E] one per row; None: each row goes on with its own stream.
            options: {"reset_mask": [E] bool} begins only those rows anew, without a seed.

        Returns:
            Observations of all rows; infos whose `_key` masks say which rows began.

        Raises:
            ConfigError: If an option is unknown, or a seed comes with a mask that leaves rows out.
            TypeError: If the mask is not a numpy array of bool.
            ValueError: If mask or seeds have a wrong length, or the mask is False everywhere.
        """
        rows = _read_reset_mask(options, self.num_envs)
        super().reset(seed=seed if isinstance(seed, int) else None)
        if seed is not None:
            if not bool(rows.all()):
                raise ConfigError("a seed with a reset_mask that leaves rows out: reseed all rows, or none")
            seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else list(seed)
            if len(seeds) != self.num_envs:
                raise ValueError(f"{len(seeds)} seeds for {self.num_envs} rows")
            self._env.close()
            self._env = self._build(seeds)
            self._session = self._start()
        elif not self._is_fresh:
            self._session.begin(rows)
        self._is_fresh = False
        return self._observe(), self._infos(torch.zeros_like(rows), rows)

    def step(self, actions: IntArray) -> _StepReturn:
        """Step all rows.

        Returns:
            Observations, rewards [E] float64, terminated [E], truncated [E], infos.

        Raises:
            AssertionError: If a row has ended and autoreset is disabled.
            ValueError: If the actions are outside the space.
        """
        if not self.action_space.contains(actions):
            raise ValueError(f"actions {actions!r}: expected a member of {self.action_space}")
        taken = self.step_torch(torch.as_tensor(np.asarray(actions, dtype=np.int64)))
        step = taken.transition
        return (
            self._observe(),
            step.reward.double().numpy(),
            step.terminated.numpy(),
            step.truncated.numpy(),
            self._step_infos(taken),
        )

    def step_torch(self, actions: Tensor) -> TorchStep:
        """Step all rows without leaving torch; the same rules as `step`.

        Args:
            actions: [E, H], or with flat actions [E], int64, within the space (not checked).

        Raises:
            AssertionError: If a row has ended and autoreset is disabled.
        """
        pending = self._session.needs_reset
        if self._mode is AutoresetMode.DISABLED and bool(pending.any()):
            ended = pending.nonzero().flatten().tolist()
            raise AssertionError(f"rows {ended} have ended: reset them with options={{'reset_mask': ...}}")
        transition, is_invalid = self._session.step(actions)
        ended = transition.ended.nonzero().flatten().tolist()
        facts = {row: self._session.final_facts(transition, row) for row in ended}
        again = transition.ended if self._mode is AutoresetMode.SAME_STEP else pending
        if self._mode is not AutoresetMode.DISABLED and bool(again.any()):
            self._session.begin(again)
        return TorchStep(self._session.inputs, transition, is_invalid, facts)

    def action_masks(self) -> MaskArray:
        """Return [E, M] bool, True = valid: the masks of the present observations."""
        return self._interface.masks(self._session.inputs)

    def telemetry(self) -> dict[str, JsonValue]:
        """Return counts of steps, episodes and illegal actions since the last seeded reset, and the time."""
        return self._session.telemetry()

    def close_extras(self, **kwargs: object) -> None:
        """Free the environment."""
        self._env.close()

    def _draw_seeds(self) -> list[int]:
        return [int(number) for number in self.np_random.integers(SEED_BOUND, size=self.num_envs)]

    def _build(self, seeds: Sequence[int]) -> RolloutEnv:
        """Build rows from gymnasium's seeds, each by way of the generator that a single environment has."""
        env = self._factory(tuple(int(seeding.np_random(s)[0].integers(SEED_BOUND)) for s in seeds))
        if env.num_envs != self.num_envs:
            raise ValueError(f"the factory built {env.num_envs} rows for {self.num_envs} seeds")
        env.reset(torch.ones(self.num_envs, dtype=torch.bool))
        return env

    def _start(self) -> EpisodeSession:
        return EpisodeSession(
            self._env,
            self._interface,
            invalid_penalty=self._options.invalid_penalty,
            max_episode_steps=self._max_episode_steps,
        )

    def _observe(self) -> GymObservation:
        return self._interface.observations(self._session.inputs)

    def _infos(self, is_invalid: Tensor, rows: Tensor) -> dict[str, object]:
        """Return masks and flags of the rows that have something to say, [E] bool."""
        spoken = rows.numpy()
        masks = self.action_masks().astype(np.int8) * spoken[:, None]
        return {
            "action_mask": masks,
            "_action_mask": spoken.copy(),
            "action_was_invalid": is_invalid.numpy() & spoken,
            "_action_was_invalid": spoken.copy(),
        }

    def _step_infos(self, taken: TorchStep) -> dict[str, object]:
        step = taken.transition
        is_same_step = self._mode is AutoresetMode.SAME_STEP
        shown = step.is_valid & ~step.ended if is_same_step else step.is_valid
        infos = self._infos(taken.is_invalid & shown, torch.ones_like(shown))
        if step.terms and bool(shown.any()):
            infos |= _share_infos(step, shown)
        endings: Mapping[int, Mapping[str, object]] = taken.facts
        if is_same_step and taken.facts:
            endings = self._final_infos(taken)
        for row, info in endings.items():
            infos = self._add_info(infos, dict(info), row)
        return infos

    def _final_infos(self, taken: TorchStep) -> dict[int, dict[str, object]]:
        """Return row -> its last observation, and the info that a single environment would give with it."""
        step = taken.transition
        observations, masks = self._interface.observations(step.inputs), self._interface.masks(step.inputs)
        infos: dict[int, dict[str, object]] = {}
        for row, facts in taken.facts.items():
            info: dict[str, object] = {
                "action_mask": masks[row].astype(np.int8),
                "action_was_invalid": bool(taken.is_invalid[row]),
            }
            if step.terms:
                info["reward_terms"] = {name: float(share[row]) for name, share in step.terms.items()}
            infos[row] = {"final_obs": pick_row(observations, row), "final_info": info | dict(facts)}
        return infos


def _share_infos(step: EnvStep, shown: Tensor) -> dict[str, object]:
    mask = shown.numpy()
    shares: dict[str, object] = {}
    for name, share in step.terms.items():
        shares[name] = torch.where(shown, share, 0.0).double().numpy()
        shares[f"_{name}"] = mask.copy()
    return {"reward_terms": shares, "_reward_terms": mask.copy()}


def _read_reset_mask(options: Mapping[str, object] | None, num_envs: int) -> Tensor:
    """Return the rows to reset, [E] bool; all of them without a mask."""
    given = dict(options or {})
    mask = given.pop("reset_mask", None)
    if given:
        raise ConfigError(f"reset options {sorted(given)}: only 'reset_mask' is known")
    if mask is None:
        return torch.ones(num_envs, dtype=torch.bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"reset_mask must be a numpy array of bool, got {mask!r}")
    if mask.shape != (num_envs,):
        raise ValueError(f"reset_mask of shape {mask.shape}: expected ({num_envs},)")
    if not mask.any():
        raise ValueError("reset_mask is False everywhere: nothing to reset")
    return torch.from_numpy(mask.copy())
