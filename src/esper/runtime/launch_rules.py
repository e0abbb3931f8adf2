"""What a launcher makes of ranks that ended: who is to blame, whether to start again, and with which command.

```
exit of each rank + its verdict -> judge -> code, culprit, whether a restart can help
command line + run directory    -> name_run_dir (first start), build_restart_args (after that)
```
Pure functions; nothing here starts, signals or reads anything. Imports no torch.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import ExitCode
from esper.runtime.ranks import RankVerdict
from esper.runtime.ranks.verdicts import FINAL_CODES
from esper.runtime.shutdown import exit_code_of

_STOPPED = (ExitCode.SIGINT, ExitCode.SIGTERM)
_ERRORS = tuple(code for code in FINAL_CODES if code not in _STOPPED)
_RUN_FLAGS = ("--run-dir", "--resume")
ALERT_FLAG = "--telemetry.on-alert"
"""A command for alerts: a resumed run takes it from its command line alone. Kept where it is one argument."""
_KEPT_FLAGS = ("--json",)
"""Flags of `esper train` that are not in the configuration of the run, but wanted again after a restart."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankExit:
    """How one rank ended that did not end well.

    Example:
        RankExit(rank=1, status=-9, seen_at_s=1_767_225_600)
    """

    rank: int
    status: int
    """What the operating system says: an exit code in [1, 255], or minus the number of the signal."""
    seen_at_s: int = 0
    """When the launcher noticed, seconds of a clock; all that died before it told the others to end are equal
    or nearly so, and what it killed itself, because it did not end, comes half a minute later."""
    verdict: RankVerdict | None = None
    """What the rank said about its end; None if it said nothing."""

    @property
    def code(self) -> int:
        """What the rank meant: its verdict's code, else its status, a polite signal as the code for it."""
        if self.verdict is not None:
            return self.verdict.code
        if self.status in (-signal.SIGINT, -signal.SIGTERM):
            return int(exit_code_of(-self.status))
        return self.status

    def describe(self) -> str:
        """Return what happened to it, as the rest of a sentence about the rank."""
        if self.verdict is not None:
            return f"left with code {self.verdict.code}: {self.verdict.reason}"
        if self.status < 0:
            return f"was killed by {_name_signal(-self.status)}"
        return f"ended with code {self.status} and without a verdict"


@final
class Judgement(NamedTuple):
    """What follows from how ranks ended."""

    code: ExitCode
    """What the launcher returns if it does not start again."""
    is_restartable: bool = False
    """Whether starting again can help."""
    culprit: RankExit | None = None
    """The rank to blame; None if nobody is, or nobody stands out."""


class _Evidence(IntEnum):
    """Against a rank, strongest first; what is seen first counts more, see `RankExit.seen_at_s`."""

    KILLED = 0
    CRASHED = 1


def judge(exits: Sequence[RankExit], *, stopped_by: int = 0) -> Judgement:
    """Return what follows from how the ranks ended.

    An error that would come again decides, whoever else died. Then a request to stop. SIGTERM alone is such
    a request, but beside anything else it is the launcher's own, which ends the others once one has ended.

    Args:
        exits: Ranks that ended badly; none = all is well.
        stopped_by: Number of the signal by which somebody stopped the launcher; 0 = none.
    """
    if not exits:
        return Judgement(ExitCode.OK)
    errors = [item for item in exits if item.code in _ERRORS]
    if errors:
        first = min(errors, key=lambda item: (_ERRORS.index(ExitCode(item.code)), item.rank))
        return Judgement(ExitCode(first.code), culprit=first)
    if stopped_by:
        return Judgement(exit_code_of(stopped_by))
    codes = {item.code for item in exits}
    if ExitCode.SIGINT in codes:
        return Judgement(ExitCode.SIGINT)
    if codes == {ExitCode.SIGTERM}:
        return Judgement(ExitCode.SIGTERM)
    return Judgement(ExitCode.RANK_FAILURE, is_restartable=True, culprit=find_suspect(exits))


def find_suspect(exits: Sequence[RankExit]) -> RankExit | None:
    """Return the rank that died by itself; None if there are only witnesses and ranks that were told to end.

    A rank that returned code 4 saw another one fail. Whoever the launcher noticed first is no evidence among
    ranks that were seen in the same look.
    """
    suspects = [
        (item.seen_at_s, evidence, item.rank, item)
        for item in exits
        if (evidence := _find_evidence(item)) is not None
    ]
    return min(suspects)[-1] if suspects else None


def _find_evidence(item: RankExit) -> _Evidence | None:
    if item.code < 0:
        return _Evidence.KILLED
    if item.code in (ExitCode.RANK_FAILURE, *_STOPPED):
        return None
    return _Evidence.CRASHED


def name_run_dir(args: Sequence[str], run_dir: Path, *, is_resumed: bool) -> tuple[str, ...]:
    """Return a command line that names its run directory, so that every rank takes the same.

    Args:
        args: `train` and its arguments, with or without a directory.
        run_dir: Where the run is, or will be.
        is_resumed: Whether the command goes on with that run.
    """
    return (*_drop_run_flags(args), f"{'--resume' if is_resumed else '--run-dir'}={run_dir}")


def build_restart_args(args: Sequence[str], run_dir: Path, *, is_resumed: bool) -> tuple[str, ...]:
    """Return the command line that goes on from the newest checkpoint of a run.

    Settings are in the run directory by then, except those that a resumed command changes.

    Args:
        args: `train` and its arguments, as they were first started.
        run_dir: The run.
        is_resumed: Whether they went on with that run already.
    """
    if is_resumed:
        return name_run_dir(args, run_dir, is_resumed=True)
    kept = [arg for arg in args if arg in _KEPT_FLAGS or arg.startswith(f"{ALERT_FLAG}=")]
    return ("train", f"--resume={run_dir}", *kept)


def _drop_run_flags(args: Sequence[str]) -> list[str]:
    kept: list[str] = []
    tokens = list(args)
    while tokens:
        token = tokens.pop(0)
        if token not in _RUN_FLAGS:
            if token.partition("=")[0] not in _RUN_FLAGS:
                kept.append(token)
        elif tokens and not tokens[0].startswith("-"):
            tokens.pop(0)
    return kept


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
