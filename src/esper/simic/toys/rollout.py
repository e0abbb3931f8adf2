"""Any toy world as a `RolloutEnv`: E rows that share the rules, each with its own stream of episodes.

Episode k of a row depends on (seed of the row, k) alone: not on the number of rows, nor on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, cast, final

import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue, derive_seed
from esper.simic.interfaces import EnvStep
from esper.simic.toys.task import StateT, ToyStep, ToyTask
from esper.tamiyo import ActionLayout, PolicyInputs


def derive_row_seeds(seed: int, num_rows: int, first_row: int = 0) -> tuple[int, ...]:
    """Return the seeds of rows first_row .. first_row + num_rows - 1 of a run."""
    return tuple(derive_seed(seed, "row", first_row + place) for place in range(num_rows))


@final
class ToyRolloutEnv(Generic[StateT]):
    """E rows of a toy world; inputs are "features" [E, D] float32 and the masks of its layout.

    Example:
        env = ToyRolloutEnv(GrowToy(), derive_row_seeds(seed=0, num_rows=8))
        env.reset(torch.ones(8, dtype=torch.bool))
    """

    def __init__(self, task: ToyTask[StateT], seeds: Sequence[int]) -> None:
        """Make idle rows; `reset` begins their first episodes.

        Args:
            task: The rules.
            seeds: [E] seed of each row.

        Raises:
            ValueError: If there is no seed.
        """
        if not seeds:
            raise ValueError(f"{task.name}: an environment needs at least one row, got no seeds")
        self._task = task
        self._seeds = tuple(seeds)
        self._episodes = [-1] * len(seeds)
        self._states = [self._begin(row, 0) for row in range(len(seeds))]
        self._is_running = [False] * len(seeds)
        self._returns = [0.0] * len(seeds)
        self._lengths = [0] * len(seeds)

    @property
    def num_envs(self) -> int:
        """E."""
        return len(self._seeds)

    @property
    def layout(self) -> ActionLayout:
        """Columns of the actions, those of the toy world."""
        return self._task.layout

    @property
    def names(self) -> tuple[str, ...]:
        """[E] name of the toy world and place of the row."""
        return tuple(f"{self._task.name}/{row}" for row in range(self.num_envs))

    def reset(self, mask: Tensor) -> None:
        """Begin the next episode in the rows where `mask` [E] bool is True."""
        for row in mask.nonzero().flatten().tolist():
            self._episodes[row] += 1
            self._states[row] = self._begin(row, self._episodes[row])
            self._is_running[row] = True
            self._returns[row] = 0.0
            self._lengths[row] = 0

    def observe(self) -> PolicyInputs:
        """Return "features" [E, D] and the masks; of a row that has ended those of its last state."""
        masks = [self._task.masks(state) for state in self._states]
        inputs = {
            "features": torch.tensor([self._task.features(state) for state in self._states]),
            "mask_op": torch.tensor([row.op for row in masks]),
        }
        if masks[0].slot is not None:
            inputs["mask_slot"] = torch.tensor([row.slot for row in masks])
        if masks[0].blueprint is not None:
            inputs["mask_blueprint"] = torch.tensor([row.blueprint for row in masks])
        return inputs

    def step(self, actions: Tensor) -> EnvStep:
        """Carry out one action per row, [E, H] int64; rows that have ended idle."""
        was_running = list(self._is_running)
        moves = [
            self._advance(row, tuple(action)) if was_running[row] else None
            for row, action in enumerate(actions.tolist())
        ]
        terminated = torch.tensor([move is not None and move.is_last for move in moves])
        return EnvStep(
            inputs=self.observe(),
            reward=torch.tensor([0.0 if move is None else move.reward for move in moves]),
            terminated=terminated,
            truncated=torch.zeros_like(terminated),
            is_valid=torch.tensor(was_running),
            terms={
                name: torch.tensor([0.0 if move is None else move.terms[name] for move in moves])
                for name in self._task.term_names
            },
            summaries=tuple(
                self._summary(row) if is_last else None for row, is_last in enumerate(terminated.tolist())
            ),
        )

    def state(self) -> dict[str, JsonValue | Tensor]:
        """Return seeds, episode numbers and the state of each row, as plain data."""
        return {
            "task": self._task.name,
            "seeds": list(self._seeds),
            "episodes": list(self._episodes),
            "states": [self._task.pack(state) for state in self._states],
            "is_running": list(self._is_running),
            "returns": list(self._returns),
            "lengths": list(self._lengths),
        }

    def restore(self, state: Mapping[str, JsonValue | Tensor]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If the state belongs to another toy world or to other seeds.
        """
        for key, own in (("task", self._task.name), ("seeds", list(self._seeds))):
            if state[key] != own:
                raise ForeignCheckpointError(
                    f"toy environment: the state has {key}={state[key]!r}, this environment "
                    f"{own!r}; build it with the same settings"
                )
        self._episodes = list(cast("Sequence[int]", state["episodes"]))
        packed = cast("Sequence[Sequence[int]]", state["states"])
        self._states = [self._task.unpack(numbers) for numbers in packed]
        self._is_running = list(cast("Sequence[bool]", state["is_running"]))
        self._returns = list(cast("Sequence[float]", state["returns"]))
        self._lengths = list(cast("Sequence[int]", state["lengths"]))

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _begin(self, row: int, episode: int) -> StateT:
        return self._task.begin(derive_seed(self._seeds[row], "toy", self._task.name, episode))

    def _advance(self, row: int, action: tuple[int, ...]) -> ToyStep[StateT]:
        move = self._task.step(self._states[row], action)
        self._states[row] = move.state
        self._is_running[row] = not move.is_last
        self._returns[row] += move.reward
        self._lengths[row] += 1
        return move

    def _summary(self, row: int) -> dict[str, JsonValue]:
        return {
            "return": self._returns[row],
            "length": self._lengths[row],
            "reason": "horizon",
            **self._task.describe(self._states[row]),
        }
