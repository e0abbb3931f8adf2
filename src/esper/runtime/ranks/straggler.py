"""Cuts slow rollouts short once most ranks are done, which counters in the store tell."""

from __future__ import annotations

from typing import final

from esper.runtime.ranks.config import DistributedConfig
from esper.runtime.ranks.notes import RankNotes


@final
class Straggler:
    """Decides whether this rank's rollout is cut; one counter per update, so that none has to be reset.

    Example:
        while step < num_steps and not straggler.cut_now(step, num_steps, update):
            step += 1
        straggler.finish(update)
    """

    def __init__(self, notes: RankNotes, config: DistributedConfig, *, rank: int, world_size: int) -> None:
        """Take what the ranks share.

        Args:
            notes: Of all ranks.
            config: When to cut.
            rank: This process.
            world_size: Number of ranks.
        """
        self._notes, self._config = notes, config
        self._rank, self._world_size = rank, world_size

    def cut_now(self, step: int, num_steps: int, update: int) -> bool:
        """Whether to end the rollout here.

        Args:
            step: Steps collected, in [0, num_steps].
            num_steps: Steps of a whole rollout.
            update: Number of the update, >= 0, alike on all ranks.
        """
        after, least = self._config.preempt_after_fraction, self._config.preempt_least_fraction
        if after is None or step < least * num_steps:
            return False
        num_done = self._notes.read(_name(update))
        return num_done is not None and num_done >= after * self._world_size

    def finish(self, update: int) -> None:
        """Count this rank's rollout as done, cut or not.

        Args:
            update: Number of the update.
        """
        if self._config.preempt_after_fraction is None:
            return
        self._notes.add(_name(update), 1)
        if self._rank == 0:
            # Nobody asks for the update before any more: its gradients were reduced over all ranks.
            self._notes.remove(_name(update - 1))


def _name(update: int) -> str:
    return f"rollout/{update}"
