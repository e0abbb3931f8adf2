"""Counters that ranks leave for each other in their store while no collective may run.

A store that does not answer is no failure here: the asker goes on as if nothing were written, and the next
collective names the rank to blame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ANSWER_S = 2.0
"""Seconds that a store is waited for; its host answers within milliseconds unless it is dead or stopped."""


@final
class RankNotes:
    """Counters by name; a name that was never written counts 0.

    Example:
        notes.add("rollout/7", 1)
        notes.read("rollout/7")
    """

    def __init__(self, store: Store, *, answer_s: float = ANSWER_S) -> None:
        """Take the store.

        Args:
            store: Shared by all ranks, and by nothing else under these names.
            answer_s: Seconds that it is waited for.
        """
        self._store, self._answer_s = store, answer_s
        self._is_answering = True

    @property
    def is_answering(self) -> bool:
        """Whether the store answered so far; once it did not, it is asked no more."""
        return self._is_answering

    def add(self, name: str, amount: int) -> int | None:
        """Add to a counter and return it; None if the store does not answer."""
        return self._ask(lambda: self._store.add(name, amount))

    def read(self, name: str) -> int | None:
        """Return a counter; None if the store does not answer."""
        return self.add(name, 0)  # adding 0 reads without waiting for the name to appear

    def remove(self, name: str) -> None:
        """Forget a counter."""
        self._ask(lambda: int(self._store.delete_key(name)))

    def _ask(self, question: Callable[[], int]) -> int | None:
        """Return the answer or None; counters of a store have no timeout, so a thread does the waiting."""
        if not self._is_answering:
            return None
        answers: list[int] = []

        def ask() -> None:
            with suppress(RuntimeError):  # its host is gone
                answers.append(question())

        thread = threading.Thread(target=ask, name="rank-notes", daemon=True)
        thread.start()
        thread.join(self._answer_s)
        self._is_answering = bool(answers)
        return answers[0] if answers else None
