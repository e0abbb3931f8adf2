"""Cuts slow rollouts short once most ranks are done.

Counters in a store tell who is, because no collective may run while rollouts do. A store that does not answer
is no failure here: a rollout then simply is not cut, and the next collective names the rank to blame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, final

from esper.runtime.ranks.config import DistributedConfig

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ANSWER_S = 2.0
"""Seconds that a store is waited for; its host answers within milliseconds unless it is dead or stopped."""


@final
class Straggler:
    """Decides whether this rank's rollout is cut; one counter per update, so that none has to be reset.

    Example:
        while step < num_steps and not straggler.cut_now(step, num_steps, update):
            step += 1
        straggler.finish(update)
    """

    def __init__(
        self,
        store: Store,
        config: DistributedConfig,
        *,
        rank: int,
        world_size: int,
        answer_s: float = ANSWER_S,
    ) -> None:
        """Take the store.

        Args:
            store: Shared by all ranks, and by nothing else under these keys.
            config: When to cut.
            rank: This process.
            world_size: Number of ranks.
            answer_s: Seconds that the store is waited for.
        """
        self._store, self._config = store, config
        self._rank, self._world_size = rank, world_size
        self._answer_s, self._is_answering = answer_s, True

    @property
    def is_answering(self) -> bool:
        """Whether the store answered so far; afterwards nothing is cut any more."""
        return self._is_answering

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
        num_done = self._count(update, 0)  # adding 0 reads without waiting for the key to appear
        return num_done is not None and num_done >= after * self._world_size

    def finish(self, update: int) -> None:
        """Count this rank's rollout as done, cut or not.

        Args:
            update: Number of the update.
        """
        if self._config.preempt_after_fraction is None:
            return
        self._count(update, 1)
        if self._rank == 0 and self._is_answering:
            # Nobody asks for the update before any more: its gradients were reduced over all ranks.
            self._ask(lambda: int(self._store.delete_key(_key(update - 1))))

    def _count(self, update: int, amount: int) -> int | None:
        return self._ask(lambda: self._store.add(_key(update), amount)) if self._is_answering else None

    def _ask(self, question: Callable[[], int]) -> int | None:
        """Return the answer or None; counters of a store have no timeout, so a thread does the waiting."""
        answers: list[int] = []

        def ask() -> None:
            with suppress(RuntimeError):  # its host is gone
                answers.append(question())

        thread = threading.Thread(target=ask, name="straggler", daemon=True)
        thread.start()
        thread.join(self._answer_s)
        self._is_answering = bool(answers)
        return answers[0] if answers else None


def _key(update: int) -> str:
    return f"rollout/{update}"
