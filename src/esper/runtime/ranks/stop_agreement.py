"""How ranks stop at the same step of a rollout, although no collective may run in it.

```
a rank wants to stop -> stop note -> each rank, after its next step: posts its step, waits for all posts
                                  -> the largest post is the place; a rank that was done posts the end
a rank at the place  -> posts that it arrived, waits for all; if the rollout of one ended before, all go on
```
The second round is needed because a rollout ends early where all its episodes have, which its rank cannot
know when it posts its step. If one rank has finished its rollout, all finish theirs and stop after the
update. A rank that dies while the others wait for its post is named by its heartbeat.
"""

from __future__ import annotations

import threading
from typing import final

from esper.leyline import RankFailureError
from esper.runtime.ranks.guard import Guard
from esper.runtime.ranks.notes import RankNotes

_OPERATION = "agreeing where to stop"
_ARRIVED, _ENDED = 1, 2
_EVERY_S = 0.02
"""Seconds between two looks for the posts of the others."""


@final
class StopAgreement:
    """One rank's part in stopping together.

    Example:
        while step < num_steps and not stops.should_stop(is_wanted, step, update):
            step += 1
        stops.finish(update)  # only if it was not stopped
    """

    def __init__(
        self,
        notes: RankNotes,
        guard: Guard,
        *,
        rank: int,
        world_size: int,
        num_steps: int,
        timeout_s: float,
    ) -> None:
        """Take what the ranks share.

        Args:
            notes: Of all ranks.
            guard: Names who is gone.
            rank: This process.
            world_size: Number of ranks.
            num_steps: Steps of a whole rollout.
            timeout_s: Seconds that the posts of the others are waited for: the longest step.
        """
        self._notes, self._guard = notes, guard
        self._rank, self._world_size = rank, world_size
        self._num_steps, self._timeout_s = num_steps, timeout_s
        self._agreed: int | None = None
        """The place; `num_steps` = nobody stops within this rollout any more."""
        self._patience_s = timeout_s
        """The longest that another rank takes to the place."""
        self._num_stops = 0
        self._written: set[str] = set()
        self._old: set[str] = set()

    def should_stop(self, is_wanted: bool, step: int, update: int) -> bool:
        """Whether this rank stops here; asked after every step.

        Args:
            is_wanted: Whether this rank wants to.
            step: Steps collected, in [1, num_steps].
            update: Number of the update, alike on all ranks.

        Raises:
            RankFailureError: If a rank is gone, or did not answer in time.
        """
        if self._agreed is None:
            note = f"stop/{update}/{self._num_stops}"
            if not self._write(note, int(is_wanted)):
                return False
            self._post("step", step + 1, update)  # 0 stands for no post
            steps = [post - 1 for post in self._wait_for_posts("step", update, self._timeout_s)]
            self._agreed = max(steps)
            self._patience_s = self._timeout_s * (1 + self._agreed - min(steps))
        if self._agreed >= self._num_steps or step < self._agreed:
            return False
        self._post("place", _ARRIVED, update)
        if _ENDED in self._wait_for_posts("place", update, self._patience_s):
            self._agreed = self._num_steps
        return self._agreed < self._num_steps

    def finish(self, update: int) -> None:
        """Say that this rank's rollout is complete; nobody stops within it any more.

        Args:
            update: Number of the update.
        """
        if self._agreed is None:
            self._post("step", self._num_steps + 1, update)
        elif self._agreed < self._num_steps:
            self._post("place", _ENDED, update)
        self._agreed, self._num_stops = None, 0
        # Nobody reads notes of the rollout before any more: its update was made by all ranks together.
        for name in sorted(self._old):
            self._notes.remove(name)
        self._old, self._written = self._written, set()

    def go_on(self) -> None:
        """Go on with a rollout in which all have stopped; all ranks do."""
        self._agreed = None
        self._num_stops += 1

    def _post(self, what: str, amount: int, update: int) -> None:
        self._write(self._name(what, update, self._rank), amount)

    def _write(self, name: str, amount: int) -> int | None:
        self._written.add(name)  # asking makes it, too
        return self._notes.add(name, amount)

    def _name(self, what: str, update: int, rank: int) -> str:
        return f"{what}/{update}/{self._num_stops}/{rank}"

    def _wait_for_posts(self, what: str, update: int, timeout_s: float) -> list[int]:
        missing, waited_s = set(range(self._world_size)), 0.0
        posts: list[int] = []
        pause = threading.Event()
        while waited_s < timeout_s:
            for rank in sorted(missing):
                post = self._notes.read(self._name(what, update, rank))
                if post:
                    posts.append(post)
                    missing.discard(rank)
            if not missing:
                return posts
            if not self._notes.is_answering:
                with self._guard(_OPERATION):
                    raise RuntimeError("the store of the ranks does not answer")
            pause.wait(_EVERY_S)
            waited_s += _EVERY_S
            if self._is_time_to_look(waited_s):
                waited_s += self._guard.silence_s
                self._guard.refuse_dead(_OPERATION)
        late = min(missing)
        raise RankFailureError(
            f"rank {late} finished no step within {timeout_s:g} s, noticed in {_OPERATION}", late
        )

    def _is_time_to_look(self, waited_s: float) -> bool:
        """A look takes a pause of its own, so the posts of living ranks get a second first."""
        return waited_s >= 1.0
