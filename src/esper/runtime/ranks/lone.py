"""What a training asks of its ranks, and the answer of a process that is alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, final

from esper.leyline import Collective, SingleProcess

if TYPE_CHECKING:
    from torch import nn


class Pace(Protocol):
    """What is asked between two steps of a rollout; see `RankPace`."""

    def should_cut(self, num_steps: int, update: int) -> bool:
        """Whether the rollout of this update ends after so many steps, for the sake of the others."""

    def should_stop(self, is_wanted: bool, num_steps: int, update: int) -> bool:
        """Whether all ranks stop after so many steps; `is_wanted`: this one wants to."""

    def go_on(self) -> None:
        """Go on with a rollout in which all have stopped."""

    def finish(self, update: int) -> None:
        """Hear that this rank's rollout is complete."""


class Ranks(Protocol):
    """The processes that train one policy, as one of them sees them; see `RankGroup`."""

    @property
    def collective(self) -> Collective:
        """Agreement over plain numbers."""

    def enter(self, phase: str, step: int) -> None:
        """Say what this rank begins."""

    def pace(self, num_steps: int) -> Pace:
        """Return the pace of rollouts of `num_steps` steps."""

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over ranks, in place."""

    def broadcast_module(self, module: nn.Module) -> None:
        """Give all ranks the weights of rank 0."""

    def barrier(self) -> None:
        """Wait until every rank is here."""


@final
class LonePace:
    """The pace of one process: every rollout is collected whole, and it stops where it wants."""

    def should_cut(self, num_steps: int, update: int) -> bool:
        """Return False."""
        return False

    def should_stop(self, is_wanted: bool, num_steps: int, update: int) -> bool:
        """Return what is wanted."""
        return is_wanted

    def go_on(self) -> None:
        """Do nothing."""

    def finish(self, update: int) -> None:
        """Do nothing."""


@final
class LoneRank:
    """The only rank there is: everything it has is already what all agree on."""

    def __init__(self) -> None:
        """Make the collective of one process."""
        self._collective = SingleProcess()

    @property
    def collective(self) -> Collective:
        """The collective of one process."""
        return self._collective

    def enter(self, phase: str, step: int) -> None:
        """Do nothing: nobody listens."""

    def pace(self, num_steps: int) -> Pace:
        """Return the pace of one process."""
        return LonePace()

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Do nothing: the gradients of one process are their own mean."""

    def broadcast_module(self, module: nn.Module) -> None:
        """Do nothing."""

    def barrier(self) -> None:
        """Do nothing."""
