from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ExitCode
from esper.runtime.launch_rules import (
    RankExit,
    build_restart_args,
    find_suspect,
    judge,
    name_run_dir,
)
from esper.runtime.ranks import RankVerdict

RUN = Path("runs/a")
NO_RESTART = (2, 3, 5, 6, 93, 130, 143)
KILLED, TOLD = -signal.SIGKILL, -signal.SIGTERM


def say(code: int, rank: int = 0) -> RankVerdict:
    """A rank's verdict."""
    return RankVerdict(code=code, step=7, phase="rollout", reason="as it said", rank=rank, attempt=0)


def exits(*statuses: int) -> list[RankExit]:
    """Ranks that ended so, in one look; 0 = well."""
    return [RankExit(rank=rank, status=status) for rank, status in enumerate(statuses) if status]


@pytest.mark.parametrize("code", NO_RESTART)
def test_codes_after_which_nothing_is_started_again_are_returned(code: int) -> None:
    for verdict in (None, say(code)):
        judgement = judge([RankExit(rank=0, status=code, verdict=verdict)])
        assert (judgement.code, judgement.is_restartable) == (code, False)


@pytest.mark.parametrize(
    ("statuses", "culprit"),
    [
        ((KILLED, TOLD), 0),
        ((TOLD, KILLED), 1),
        ((4, KILLED), 1),
        ((KILLED, 4, 4), 0),
        ((1, 4), 0),
        ((4, 1), 1),
        ((77, 143), 0),
        ((143, -signal.SIGSEGV, 143), 1),
        ((4, 4), None),
        ((4, 0), None),
        ((0, 4, TOLD), None),
        ((1, KILLED), 1),
    ],
)
def test_a_failure_is_restarted_and_its_culprit_named(statuses: Sequence[int], culprit: int | None) -> None:
    judgement = judge(exits(*statuses))
    assert (judgement.code, judgement.is_restartable) == (ExitCode.RANK_FAILURE, True)
    assert (None if judgement.culprit is None else judgement.culprit.rank) == culprit


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((), 0),
        ((0, 0), 0),
        ((2, KILLED, 4), 2),
        ((4, 5), 5),
        ((6, 3), 3),
        ((143, 143), 143),
        ((143, TOLD), 143),
        ((TOLD, TOLD), 143),
        ((130, 4), 130),
        ((-signal.SIGINT, TOLD), 130),
    ],
)
def test_what_would_come_again_or_was_wished_is_not_restarted(statuses: Sequence[int], code: int) -> None:
    judgement = judge(exits(*statuses))
    assert (judgement.code, judgement.is_restartable) == (code, False)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_launcher_that_was_stopped_says_so_whatever_its_ranks_returned(number: int, code: int) -> None:
    for statuses in ((143, 143), (130, KILLED), (1, 4), (4, -signal.SIGHUP)):
        assert judge(exits(*statuses), stopped_by=number) == (code, False, None)


def test_ranks_that_finished_in_spite_of_a_signal_have_finished() -> None:
    assert judge([], stopped_by=signal.SIGTERM).code is ExitCode.OK


def test_an_error_found_while_stopping_is_more_than_the_signal() -> None:
    assert judge(exits(5, 143), stopped_by=signal.SIGTERM).code is ExitCode.DIVERGED


def test_a_rank_with_a_verdict_left_by_itself_whatever_killed_it_then() -> None:
    witness = RankExit(rank=0, status=KILLED, verdict=say(4))
    dead = RankExit(rank=1, status=KILLED)
    assert find_suspect([witness, dead]) is dead
    assert find_suspect([witness]) is None
    assert judge([RankExit(rank=0, status=KILLED, verdict=say(3))]).code is ExitCode.DATA


def test_what_the_launcher_killed_half_a_minute_later_is_not_blamed() -> None:
    crashed = RankExit(rank=1, status=1, seen_at_s=100)
    slow = RankExit(rank=0, status=KILLED, seen_at_s=130)
    assert find_suspect([slow, crashed]) is crashed


def test_a_rank_that_hung_until_it_was_killed_is_blamed_though_it_is_seen_last() -> None:
    witness = RankExit(rank=0, status=4, seen_at_s=100, verdict=say(4))
    hung = RankExit(rank=1, status=KILLED, seen_at_s=130)
    assert judge([witness, hung]).culprit is hung


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 77, 93, 130, 143, -9, -11, -15]), max_size=5))
def test_the_judgement_does_not_depend_on_the_order_in_the_table(statuses: list[int]) -> None:
    table = exits(*statuses)
    judgement = judge(table)
    assert judge(table[::-1]) == judgement
    assert judgement.is_restartable == (judgement.code is ExitCode.RANK_FAILURE)
    if {2, 3, 5, 6, 93, 130} & set(statuses):
        assert not judgement.is_restartable
    if judgement.culprit is not None:
        assert judgement.culprit.status not in (4, 143, TOLD)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (RankExit(rank=0, status=KILLED), "was killed by SIGKILL"),
        (RankExit(rank=0, status=-99), "was killed by signal 99"),
        (RankExit(rank=0, status=1), "ended with code 1 and without a verdict"),
        (RankExit(rank=0, status=TOLD, verdict=say(1)), "left with code 1: as it said"),
    ],
)
def test_the_end_of_a_rank_is_told_in_words(item: RankExit, text: str) -> None:
    assert item.describe() == text


@pytest.mark.parametrize(
    "args",
    [
        ("train", "ppo", "--seed", "3"),
        ("train", "--run-dir", "old", "ppo", "--seed", "3"),
        ("train", "ppo", "--run-dir=old", "--seed", "3"),
        ("train", "ppo", "--resume", "--seed", "3"),
        ("train", "ppo", "--resume=old", "--run-dir", "x", "--seed", "3"),
    ],
)
def test_a_command_line_names_the_run_directory_once(args: tuple[str, ...]) -> None:
    kept = ("train", "ppo", "--seed", "3")
    assert name_run_dir(args, RUN, is_resumed=False) == (*kept, "--run-dir=runs/a")
    assert name_run_dir(args, RUN, is_resumed=True) == (*kept, "--resume=runs/a")


def test_a_new_run_is_resumed_with_the_settings_that_it_wrote() -> None:
    args = ("train", "ppo", "--task", "digits", "--run-dir", "runs/a", "--json")
    assert build_restart_args(args, RUN, is_resumed=False) == ("train", "--resume=runs/a", "--json")


def test_a_restart_is_told_again_what_to_run_for_alerts() -> None:
    args = ("train", "ppo", "--run-dir", "runs/a", "--telemetry.on-alert=page me")
    expected = ("train", "--resume=runs/a", "--telemetry.on-alert=page me")
    assert build_restart_args(args, RUN, is_resumed=False) == expected


def test_a_resumed_run_keeps_what_its_command_changed() -> None:
    args = ("train", "--resume", "runs/a", "--checkpoint.every-epochs", "2")
    expected = ("train", "--checkpoint.every-epochs", "2", "--resume=runs/a")
    assert build_restart_args(args, RUN, is_resumed=True) == expected


@given(st.lists(st.sampled_from(["--run-dir", "--resume", "--run-dir=b", "--seed", "3", "ppo"]), max_size=8))
def test_naming_the_directory_twice_changes_nothing(tokens: list[str]) -> None:
    once = name_run_dir(("train", *tokens), RUN, is_resumed=True)
    assert name_run_dir(once, RUN, is_resumed=True) == once
    assert sum(token.startswith(("--run-dir", "--resume")) for token in once) == 1
