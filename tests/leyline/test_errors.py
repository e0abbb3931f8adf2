from __future__ import annotations

import pytest

from esper import leyline
from esper.leyline import (
    CheckpointError,
    ConfigError,
    DataError,
    EsperError,
    ExitCode,
    ForeignCheckpointError,
    GovernorGaveUpError,
    InterruptedRunError,
    RankFailureError,
    RanksDisagreeError,
    UnknownNameError,
    suggest,
)

ERRORS = [
    item
    for name in leyline.__all__
    if isinstance(item := getattr(leyline, name), type) and issubclass(item, Exception)
]


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_ours_and_says_when_it_is_raised(error: type[Exception]) -> None:
    assert issubclass(error, EsperError)
    assert str(error.__doc__).startswith("Raised when ")
    assert isinstance(error.exit_code, ExitCode)


def test_exit_codes_are_frozen() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "USAGE": 2,
        "DATA": 3,
        "RANK_FAILURE": 4,
        "DIVERGED": 5,
        "GOVERNOR": 6,
        "NO_PROGRESS": 93,
        "SIGINT": 130,
        "SIGTERM": 143,
    }
    assert ConfigError.exit_code is ExitCode.USAGE
    assert DataError.exit_code is ExitCode.DATA
    assert CheckpointError.exit_code is ExitCode.DATA
    assert ForeignCheckpointError.exit_code is ExitCode.USAGE
    assert GovernorGaveUpError.exit_code is ExitCode.GOVERNOR
    assert RankFailureError.exit_code is ExitCode.RANK_FAILURE
    assert RanksDisagreeError.exit_code is ExitCode.DIVERGED


def test_an_unknown_name_carries_kind_and_suggestion() -> None:
    error = UnknownNameError("task", "digit", ("emoji9", "digits"))
    assert str(error) == "unknown task 'digit': did you mean 'digits'? (known: digits, emoji9)"
    assert (error.kind, error.got) == ("task", "digit")
    assert isinstance(error, ValueError)


def test_an_interruption_remembers_its_signal() -> None:
    error = InterruptedRunError("stopped", ExitCode.SIGTERM)
    assert error.signal_exit_code is ExitCode.SIGTERM


def test_suggestions_are_sorted_and_honest() -> None:
    assert suggest("zzz", ["b", "a"]) == "known: a, b"
    assert suggest("x", []) == "none are registered"
    assert suggest("conv_ligth", {"conv_light", "norm"}).startswith("did you mean 'conv_light'?")


def test_a_rank_failure_remembers_whom_it_blames() -> None:
    assert RankFailureError("rank 1 stopped answering", rank=1).rank == 1
    assert RankFailureError("nobody is behind").rank is None
