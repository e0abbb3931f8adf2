"""A wish to stop, or to save, on any rank is one on all, from the same batch on.

```
signal on a rank -> its wish -> flags of the next step -> settle, on all ranks -> the loop asks, saves, leaves
```
Asked between two steps it answers what the ranks agreed on last, so that no rank leaves alone. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, final

from esper.leyline import ExitCode


class LocalStop(Protocol):
    """What this process alone knows about stopping; see `StopSignal`."""

    def __call__(self) -> bool:
        """Whether a stop was asked for."""

    @property
    def exit_code(self) -> ExitCode:
        """What the process would return; OK while nobody asked."""


@final
class Wish(NamedTuple):
    """What one rank asks for; travels as two numbers."""

    code: int
    """Exit code of a stop; 0 = go on."""
    save: int
    """1 = save at the next boundary."""


def _never() -> bool:
    """Wish for nothing."""
    return False


@final
class AgreedStop:
    """Stops of all ranks as one answer; fits where a loop wants a stop check.

    Example:
        stop = AgreedStop(signals)
        plan = SyncPlan(channel, stop)
        host_run.train_epoch(stop)
    """

    def __init__(self, local: LocalStop, take_save_request: Callable[[], bool] = _never) -> None:
        """Join what this process knows.

        Args:
            local: Signals of this process.
            take_save_request: Whether a checkpoint was asked for here since the last call.
        """
        self._local, self._take_local_save = local, take_save_request
        self._code = 0
        self._is_saving = False

    @property
    def wish(self) -> Wish:
        """What this rank asks for; a wish to save is taken by being read."""
        return Wish(int(self._local.exit_code) if self._local() else 0, int(self._take_local_save()))

    def settle(self, wishes: list[Wish]) -> None:
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
    def exit_code(self) -> ExitCode:
        """What every rank returns."""
        return ExitCode(self._code)
