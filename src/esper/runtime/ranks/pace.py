"""The pace of one rank's rollouts: cut for the sake of the others, or stopped together with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from esper.runtime.ranks.stop_agreement import StopAgreement
from esper.runtime.ranks.straggler import Straggler

UPDATE = "update"
"""The phase that follows a rollout."""


@final
class RankPace:
    """What a training in several processes asks between two steps.

    Example:
        TrainerParts(..., pace=group.pace(num_steps))
    """

    def __init__(
        self,
        straggler: Straggler,
        stops: StopAgreement,
        *,
        num_steps: int,
        enter: Callable[[str, int], None],
    ) -> None:
        """Take both.

        Args:
            straggler: When a rollout is cut.
            stops: Where all ranks stop.
            num_steps: Steps of a whole rollout.
            enter: Hears what the rank begins.
        """
        self._straggler, self._stops = straggler, stops
        self._num_steps, self._enter = num_steps, enter

    def should_cut(self, num_steps: int, update: int) -> bool:
        """Whether the rollout ends after so many steps, because most ranks are done."""
        return self._straggler.cut_now(num_steps, self._num_steps, update)

    def should_stop(self, is_wanted: bool, num_steps: int, update: int) -> bool:
        """See `StopAgreement.should_stop`."""
        return self._stops.should_stop(is_wanted, num_steps, update)

    def go_on(self) -> None:
        """Go on with a rollout in which all have stopped."""
        self._stops.go_on()

    def finish(self, update: int) -> None:
        """Say that this rank's rollout is complete."""
        self._straggler.finish(update)
        self._stops.finish(update)
        self._enter(UPDATE, update)
