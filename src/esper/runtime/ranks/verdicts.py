"""Why a rank ended, in a file of its own: the launcher returns one exit code, whatever its workers said.

A launcher of torch restarts after any code but 0 and itself returns 1. So each rank that leaves by itself
writes its verdict; a restarted worker reads all of them first and leaves at once where a restart cannot help.
A rank without a verdict was killed. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import ExitCode
from esper.runtime.ranks.record_file import (
    MAX_TEXT,
    DamagedRecordError,
    read_record,
    take_number,
    take_text,
    write_record,
)

FINAL_CODES = (
    ExitCode.USAGE,
    ExitCode.DATA,
    ExitCode.DIVERGED,
    ExitCode.GOVERNOR,
    ExitCode.NO_PROGRESS,
    ExitCode.SIGINT,
    ExitCode.SIGTERM,
)
"""Codes after which no restart helps, the one that tells most first; all others may be restarted."""
_PATTERN = "verdict-rank-*.json"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankVerdict:
    """How one rank ended.

    Example:
        RankVerdict(code=4, step=7, phase="rollout", reason="rank 1 stopped answering", rank=0, attempt=0)
    """

    code: int
    """What the process returned, in [0, 255]; an `ExitCode`, or 1 for an error in the program."""
    step: int
    """Update that it was in, >= 0."""
    phase: str
    """What it was doing, as its heartbeat said."""
    reason: str
    """One line for a person."""
    rank: int
    attempt: int
    """Restarts before, >= 0."""

    @property
    def is_final(self) -> bool:
        """Whether a restart would be in vain."""
        return self.code in FINAL_CODES


class FoundVerdicts(NamedTuple):
    """What lies in a folder."""

    verdicts: tuple[RankVerdict, ...]
    """By rank."""
    problems: tuple[str, ...]
    """Files that are no verdict, one line each."""


def write_verdict(folder: Path, verdict: RankVerdict) -> None:
    """Put a rank's verdict in the place of its last one.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_record(
        folder / f"verdict-rank-{verdict.rank}.json",
        {
            "code": int(verdict.code),
            "step": verdict.step,
            "phase": verdict.phase[:MAX_TEXT],
            "reason": verdict.reason[:MAX_TEXT],
            "rank": verdict.rank,
            "attempt": verdict.attempt,
        },
    )


def read_verdicts(folder: Path) -> FoundVerdicts:
    """Return the verdicts in a folder; a damaged file is a problem of the answer, not an error."""
    verdicts, problems = [], []
    for path in sorted(folder.glob(_PATTERN)):
        try:
            verdicts.append(_read_verdict(path))
        except FileNotFoundError:
            pass  # cleared meanwhile
        except DamagedRecordError as error:
            problems.append(f"{path}: no verdict ({error})")
    return FoundVerdicts(tuple(sorted(verdicts, key=lambda verdict: verdict.rank)), tuple(problems))


def find_final(folder: Path) -> RankVerdict | None:
    """Return the verdict by whose code a restarted worker must leave at once; None = go on.

    Of several it is the one whose code tells most, then that of the lowest rank, so that all ranks leave with
    the same code.
    """
    final_ones = [verdict for verdict in read_verdicts(folder).verdicts if verdict.is_final]
    return min(
        final_ones,
        key=lambda verdict: (FINAL_CODES.index(ExitCode(verdict.code)), verdict.rank),
        default=None,
    )


def clear_verdicts(folder: Path) -> None:
    """Remove every verdict, damaged ones too: a new command of a person is a new start.

    Raises:
        OSError: If a file cannot be removed.
    """
    for path in folder.glob(_PATTERN):
        path.unlink(missing_ok=True)


def _read_verdict(path: Path) -> RankVerdict:
    record = read_record(path)
    verdict = RankVerdict(
        code=take_number(record, "code"),
        step=take_number(record, "step"),
        phase=take_text(record, "phase"),
        reason=take_text(record, "reason"),
        rank=take_number(record, "rank"),
        attempt=take_number(record, "attempt"),
    )
    if verdict.code > 255:
        raise DamagedRecordError(f"code is {verdict.code}, not in [0, 255]")
    if path.name != f"verdict-rank-{verdict.rank}.json":
        raise DamagedRecordError(f"it is of rank {verdict.rank}")
    return verdict
