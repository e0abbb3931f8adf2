"""Around every call into torch.distributed: what fails there leaves as an error that names the culprit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from esper.leyline import RankFailureError
from esper.runtime.ranks.culprit import find_culprit, find_dead
from esper.runtime.ranks.heartbeat import Heartbeat


@final
class Guard:
    """Turns errors and timeouts of exchanges into `RankFailureError`.

    Example:
        with guard("all_sum"):
            group.allreduce([tensor]).wait(timeout)
    """

    def __init__(self, heartbeat: Heartbeat, folder: Path, *, world_size: int, silence_s: float) -> None:
        """Take what the search needs.

        Args:
            heartbeat: This rank's.
            folder: Where all ranks publish theirs.
            world_size: Number of ranks.
            silence_s: Seconds after which a beat that did not move counts as stopped.
        """
        self._heartbeat, self._folder = heartbeat, folder
        self._world_size, self._silence_s = world_size, silence_s

    @property
    def silence_s(self) -> float:
        """Seconds that one look at the heartbeats takes."""
        return self._silence_s

    @contextmanager
    def __call__(self, operation: str) -> Iterator[None]:
        """Watch over one exchange.

        Args:
            operation: Its name, for the message.

        Raises:
            RankFailureError: If the exchange failed; its cause is what torch said.
        """
        try:
            yield
        except (
            RuntimeError
        ) as error:  # gloo raises it bare; all other errors of torch.distributed are kinds of it
            raise self._blame(operation) from error

    def refuse_dead(self, operation: str) -> None:
        """Look whether a rank is gone or stopped, while this one waits outside of any collective.

        Args:
            operation: What it waits for, for the message.

        Raises:
            RankFailureError: If one is.
        """
        finding = find_dead(
            self._folder, self._heartbeat.pulse, world_size=self._world_size, pause=self._pause
        )
        if finding is not None:
            self._heartbeat.admit_failure(finding.rank)
            raise RankFailureError(f"{finding.describe()}, noticed in {operation}", finding.rank)

    def _blame(self, operation: str) -> RankFailureError:
        # Witness first: a peer that looks meanwhile, or after this rank left, must not take it for dead.
        self._heartbeat.admit_failure()
        finding = find_culprit(
            self._folder, self._heartbeat.pulse, world_size=self._world_size, pause=self._pause
        )
        self._heartbeat.admit_failure(finding.rank)
        return RankFailureError(f"{finding.describe()}, noticed in {operation}", finding.rank)

    def _pause(self) -> None:
        threading.Event().wait(self._silence_s)
