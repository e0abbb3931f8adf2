"""Errors that cross a wall, and the exit codes they become at the command line.

Every error that a user can cause is an `EsperError`; its `exit_code` is what the process returns.
A programmer's error stays an `AssertionError` or a plain `RuntimeError` and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar, final


@final
class ExitCode(IntEnum):
    """What the process returns; stable, documented, and what a job scheduler may branch on."""

    OK = 0
    USAGE = 2
    """Usage, configuration or refused input (a foreign checkpoint included)."""
    DATA = 3
    """Unusable data, or no valid checkpoint left."""
    RANK_FAILURE = 4
    """A rank died or a collective timed out."""
    DIVERGED = 5
    """Ranks disagree about the topology, or about what they exchange."""
    GOVERNOR = 6
    """The governor gave up after its bounded number of rollbacks."""
    NO_PROGRESS = 93
    """Three restarts without progress: do not requeue."""
    SIGINT = 130
    """Interrupted after a saved checkpoint; resumable."""
    SIGTERM = 143
    """Terminated, or at the end of its time, after a saved checkpoint; resumable."""


class EsperError(Exception):
    """Raised when something a user can act on went wrong; the root of every error here."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class ConfigError(EsperError, ValueError):
    """Raised when a setting is unknown, of the wrong type, or out of its range."""


@final
class UnknownNameError(ConfigError):
    """Raised when a name (task, blueprint, slot, policy, preset) does not exist; names the nearest one."""

    def __init__(self, kind: str, got: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"unknown {kind} {got!r}: {suggest(got, names)}")
        self.kind = kind
        self.got = got


class DataError(EsperError):
    """Raised when a data set is missing, truncated, corrupt or of an unknown format."""

    exit_code: ClassVar[ExitCode] = ExitCode.DATA


class CheckpointError(EsperError):
    """Raised when a checkpoint is damaged, or none that is valid remains."""

    exit_code: ClassVar[ExitCode] = ExitCode.DATA


@final
class ForeignCheckpointError(CheckpointError):
    """Raised when a checkpoint is whole but is not one of ours, or belongs to another configuration."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class RunDirectoryError(EsperError):
    """Raised when a run directory is in use, is not a run, or cannot be written."""


class IllegalTransitionError(EsperError, RuntimeError):
    """Raised when a lifecycle call is not legal from the slot's present stage; nothing was changed."""


class BlueprintContractError(EsperError, ValueError):
    """Raised when a blueprint breaks the contract: shape, zero delta at birth, live gradients, counts."""


class HostError(EsperError, ValueError):
    """Raised when a host's declaration does not match what its forward pass really does."""


class ExportError(EsperError, RuntimeError):
    """Raised when a model cannot leave yet (a seed is in flight) or its export differs from it."""


@final
class GovernorGaveUpError(EsperError, RuntimeError):
    """Raised when a host still fails after the allowed number of rollbacks."""

    exit_code: ClassVar[ExitCode] = ExitCode.GOVERNOR


@final
class RankFailureError(EsperError, RuntimeError):
    """Raised when a rank died, hung or left, or a collective failed; the message names the rank to blame."""

    exit_code: ClassVar[ExitCode] = ExitCode.RANK_FAILURE

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        """The rank to blame; None if heartbeats blame nobody."""


@final
class RanksDisagreeError(EsperError, RuntimeError):
    """Raised when ranks enter different collectives, or one with unequal lengths.

    A restart would only repeat it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.DIVERGED


@final
class InterruptedRunError(EsperError):
    """Raised when a signal, or the end of its time, stopped a run after its checkpoint was saved."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.signal_exit_code = exit_code


def suggest(got: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" plus the list of valid names.

    Args:
        got: What the user wrote.
        known: The valid names.

    Example:
        >>> suggest("digts", ["digits", "text"])
        "did you mean 'digits'? (known: digits, text)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    listing = "known: " + ", ".join(names) if names else "none are registered"
    return f"did you mean {near[0]!r}? ({listing})" if near else listing
