"""Episodes of a `RolloutEnv` behind an adapter: what is pending, what it added up to, what was illegal.

Shared by the single and the vector environment, so that both report the same. Knows spaces, but neither
gymnasium's return values nor its autoreset.

Shapes: E rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from esper.leyline import JsonValue
from esper.simic.gym.spaces import GymInterface
from esper.simic.interfaces import EnvStep, RolloutEnv
from esper.tamiyo import PolicyInputs

INVALID_TERM = "invalid"
"""Name of the share of the reward that penalises illegal actions."""


class SessionStep(NamedTuple):
    """One step of E rows."""

    transition: EnvStep
    """Penalty and time limit included."""
    is_invalid: Tensor
    """[E] bool: the action was illegal; False for idle rows."""


@final
class EpisodeSession:
    """E rows and their running episodes."""

    def __init__(
        self,
        env: RolloutEnv,
        interface: GymInterface,
        *,
        invalid_penalty: float = 0.0,
        max_episode_steps: int | None = None,
    ) -> None:
        """Take over an environment whose rows have all begun an episode.

        Args:
            env: Its rows are stepped by nobody else from now on.
            interface: Its spaces.
            invalid_penalty: Subtracted for an illegal action.
            max_episode_steps: Steps after which an episode is abandoned, a true truncation; None = never.
        """
        self._env = env
        self._interface = interface
        self._invalid_penalty = invalid_penalty
        self._max_episode_steps = max_episode_steps
        self._inputs = env.observe()
        self._needs_reset = torch.zeros(env.num_envs, dtype=torch.bool)
        self._returns = torch.zeros(env.num_envs, dtype=torch.float64)
        self._lengths = torch.zeros(env.num_envs, dtype=torch.int64)
        self._num_steps = 0
        self._num_invalid = 0
        self._num_episodes = 0
        self._seconds = 0.0

    @property
    def inputs(self) -> PolicyInputs:
        """Pending observations, [E, ...]; of a row that has ended its final one."""
        return self._inputs

    @property
    def needs_reset(self) -> Tensor:
        """[E] bool, a copy: the row has ended and idles."""
        return self._needs_reset.clone()

    def begin(self, rows: Tensor) -> None:
        """Begin a new episode in the rows [E] bool, whether or not the present one has ended."""
        start = time.monotonic()
        self._env.reset(rows)
        self._inputs = self._env.observe()
        self._returns[rows] = 0.0
        self._lengths[rows] = 0
        self._needs_reset &= ~rows
        self._seconds += time.monotonic() - start

    def step(self, actions: Tensor) -> SessionStep:
        """Carry out the actions of the rows that have not ended.

        Args:
            actions: [E, H] or [E] int64, within the action space; those of idle rows are ignored.
        """
        start = time.monotonic()
        is_live = ~self._needs_reset
        chosen, is_invalid = self._interface.resolve(actions, self._inputs)
        is_invalid = is_invalid & is_live
        transition = self._settle(self._env.step(chosen), is_live, is_invalid)
        self._inputs = transition.inputs
        self._needs_reset = ~is_live | transition.ended
        self._num_steps += int(transition.is_valid.sum())
        self._num_invalid += int(is_invalid.sum())
        self._num_episodes += int(transition.ended.sum())
        self._seconds += time.monotonic() - start
        return SessionStep(transition, is_invalid)

    def final_facts(self, transition: EnvStep, row: int) -> dict[str, JsonValue]:
        """Return what there is to say about the episode of a row that has just ended, as plain data.

        A number that is not finite becomes 0 with a flag beside it, `<name>_is_finite` = False: NaN would
        not equal itself when two infos are compared.
        """
        summary = (transition.summaries[row] if transition.summaries else None) or {}
        reason = "time_limit" if bool(transition.truncated[row]) else "terminated"
        return {
            **_make_finite(summary),
            "termination_reason": summary.get("reason", reason),
            "episode_return": float(self._returns[row]),
            "episode_length": int(self._lengths[row]),
        }

    def telemetry(self) -> dict[str, JsonValue]:
        """Return counts since the beginning and the time spent; never part of an info."""
        return {
            "num_steps": self._num_steps,
            "num_episodes": self._num_episodes,
            "num_invalid_actions": self._num_invalid,
            "env_seconds": self._seconds,
            "steps_per_second": self._num_steps / self._seconds if self._seconds > 0.0 else 0.0,
        }

    def close(self) -> None:
        """Free the environment; harmless when repeated."""
        self._env.close()

    def _settle(self, step: EnvStep, is_live: Tensor, is_invalid: Tensor) -> EnvStep:
        """Add the penalty and the time limit; blank rows that were abandoned here but not in there."""
        is_valid = step.is_valid & is_live
        penalty = self._invalid_penalty * is_invalid.float()
        reward = torch.where(is_live, step.reward, 0.0) - penalty
        terms = {name: torch.where(is_live, share, 0.0) for name, share in step.terms.items()}
        if self._invalid_penalty > 0.0:
            terms[INVALID_TERM] = -penalty
        self._returns += reward.double()
        self._lengths += is_valid
        terminated = step.terminated & is_live
        truncated = step.truncated & is_live
        if self._max_episode_steps is not None:
            truncated |= is_valid & ~terminated & (self._lengths >= self._max_episode_steps)
        return replace(
            step, reward=reward, terminated=terminated, truncated=truncated, is_valid=is_valid, terms=terms
        )


def _make_finite(facts: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    finite: dict[str, JsonValue] = {}
    for key, value in facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            finite[key] = 0.0
            finite[f"{key}_is_finite"] = False
        elif isinstance(value, Mapping):
            finite[key] = _make_finite(value)
        else:
            finite[key] = value
    return finite
