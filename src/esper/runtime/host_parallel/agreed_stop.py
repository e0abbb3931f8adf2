"""A wish to stop, or to save, on any rank is one on all, from the same batch on.

```
signal on a rank -> its wish -> flags of the next step -> settle, on all ranks -> the loop asks, saves, leaves
```
Asked between two steps it answers what the ranks agreed on last, so that no rank leaves alone. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import ExitCode, InterruptedRunError
from esper.runtime.run_stop import SAVED_BY_FIRST, RunStop, describe_save, describe_stop


@final
class Wish(NamedTuple):
    """What one rank asks for; travels as two numbers."""

    code: int
    """Exit code of a stop; 0 = go on."""
    save: int
    """1 = save at the next boundary."""


@final
class AgreedStop:
    """Stops of all ranks as one answer: a `StopQuestion` whose answers are the same everywhere.

    Example:
        stop = AgreedStop(RunStop(signals, limit))
        plan = SyncPlan(channel, stop)
        host_run.train_epoch(stop.pauses)
    """

    def __init__(self, local: RunStop, *, num_ranks: int = 1) -> None:
        """Join what this process knows.

        Args:
            local: Signals and time of this process.
            num_ranks: Processes of the run, for the command that goes on.
        """
        self._local, self._num_ranks = local, num_ranks
        self._code = 0
        self._is_saving = False

    @property
    def wish(self) -> Wish:
        """What this rank asks for; a wish to save is taken by being read."""
        code = int(self._local.exit_code) if self._local() else 0
        return Wish(code, int(self._local.take_save_request()))

    def settle(self, wishes: Sequence[Wish]) -> None:
        """Hear what all ranks ask for; a stop stays, and of several codes the highest counts."""
        self._code = max(self._code, *(wish.code for wish in wishes))
        self._is_saving = self._is_saving or any(wish.save for wish in wishes)

    def __call__(self) -> bool:
        """Whether all ranks leave at this boundary."""
        return self._code != 0

    def pauses(self) -> bool:
        """Whether all ranks stop at this boundary, to leave or only to save."""
        return self() or self._is_saving

    def take_save_request(self) -> bool:
        """Whether any rank asked for a checkpoint since the last call."""
        is_saving, self._is_saving = self._is_saving, False
        return is_saving

    @property
    def is_time_over(self) -> bool:
        """Whether it was this rank's time limit that said stop."""
        return self() and self._local.is_time_over

    @property
    def exit_code(self) -> ExitCode:
        """What every rank returns."""
        return ExitCode(self._code)

    @property
    def reason(self) -> str:
        """Why the run stops, as the end of a sentence that begins with "stopped"."""
        return self._local.reason if self._local() else "by a signal to another rank, or the end of its time"

    def describe(self, saved: str | None, run_dir: Path) -> InterruptedRunError:
        """Return the error that ends the attempt of the rank that saves; see `RunStop.describe`."""
        return self._describe(describe_save(saved), run_dir)

    def describe_follower(self, run_dir: Path) -> InterruptedRunError:
        """Return the error that ends the attempt of a rank that does not write."""
        return self._describe(SAVED_BY_FIRST, run_dir)

    def _describe(self, what: str, run_dir: Path) -> InterruptedRunError:
        return describe_stop(self.reason, what, run_dir, self.exit_code, self._num_ranks)
