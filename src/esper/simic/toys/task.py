"""What a toy world is made of: a pure state machine with features and masks; no tensors, no rows, no clock.

Shapes: D features, O operations, S slots, B blueprints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from esper.leyline import JsonValue
from esper.tamiyo import ActionLayout

StateT = TypeVar("StateT")


class ToyMasks(NamedTuple):
    """Legality of each index; True = may be picked. A part is None where the layout lacks the head."""

    op: tuple[bool, ...]
    """[O]."""
    slot: tuple[tuple[bool, ...], ...] | None = None
    """[O, S]."""
    blueprint: tuple[tuple[bool, ...], ...] | None = None
    """[S, B]."""


class ToyStep(NamedTuple, Generic[StateT]):
    """What one action led to."""

    state: StateT
    terms: Mapping[str, float]
    """Name -> share of the reward; the reward is their sum."""
    is_last: bool
    """The episode is over."""

    @property
    def reward(self) -> float:
        """Sum of the shares."""
        return sum(self.terms.values())


class ToyTask(Protocol[StateT]):
    """Rules of one toy world; holds no state of an episode, so that any number of rows may share it."""

    @property
    def name(self) -> str:
        """Short name: part of the names of rows and of the random streams."""

    @property
    def layout(self) -> ActionLayout:
        """Columns of an action."""

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the shares that a reward consists of."""

    def begin(self, seed: int) -> StateT:
        """Return the first state of an episode; everything random about it comes from `seed`."""

    def features(self, state: StateT) -> tuple[float, ...]:
        """Return what a policy sees: [D], each within [-1, 1]."""

    def masks(self, state: StateT) -> ToyMasks:
        """Return what is legal; never empty, also in a last state."""

    def step(self, state: StateT, action: tuple[int, ...]) -> ToyStep[StateT]:
        """Carry out one action [H]; an illegal one counts as waiting, whatever that is here."""

    def describe(self, state: StateT) -> dict[str, JsonValue]:
        """Return facts about an episode that has ended, for its summary."""

    def pack(self, state: StateT) -> list[int]:
        """Return the state as whole numbers, for a checkpoint."""

    def unpack(self, numbers: Sequence[int]) -> StateT:
        """Return the state that `pack` was given."""

    def rules(self) -> dict[str, JsonValue]:
        """Return every constant of reward and dynamics: a change of them asks for a new version."""
