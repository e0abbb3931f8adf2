"""`esper runs rm` and `esper runs prune`: shown, asked for, carried out, or refused in one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from cli.calling import call
from esper.leyline import RunDirectoryError
from esper.runtime.run_folder import RunFolder
from runtime.test_run_removal import STOPPED, make_run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs/` below the working directory: two finished runs and one that was stopped."""
    monkeypatch.chdir(tmp_path)
    for name, error in (("a", None), ("b", None), ("c", STOPPED)):
        make_run(tmp_path / "runs" / name, error=error)
    return tmp_path / "runs"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_named_runs_are_removed_with_yes(root: Path) -> None:
    answer = call(["runs", "rm", "runs/a", "runs/c", "runs/a", "--yes"])
    assert (answer.code, left(root)) == (0, ["b"])
    assert answer.err.startswith("removed 2 folders, 0.0 MB")
    assert str(root / "a") in answer.out


@pytest.mark.parametrize(
    ("said", "names"), [("y\n", ["b", "c"]), ("n\n", ["a", "b", "c"]), ("", ["a", "b", "c"])]
)
def test_a_terminal_is_asked(
    said: str, names: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(said))
    answer = call(["runs", "rm", "runs/a"])
    assert (answer.code, left(root)) == (0, names)
    assert "remove 1 folder, 0.0 MB? [y/N]" in answer.err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["rm", "runs/a"], "give --yes"),
        (["rm", "runs/a", "runs/gone", "--yes"], "is not a run"),
        (["rm", "--yes"], "RUN"),
        (["prune"], "say which runs go"),
        (["prune", "--older-than", "-1", "--yes"], "expected days"),
        (["prune", "--older-than", "nan", "--yes"], "expected days"),
        (["prune", "--keep-last", "-1", "--yes"], "must be >= 0"),
        (["prune", "--state", "running", "--yes"], "invalid choice"),
        (["prune", "--checkpoints", "--state", "failed", "--yes"], "leave out --state"),
        (["prune", "--keep-last", "1", "--force"], "unknown argument"),
    ],
)
def test_what_is_wrong_is_one_line_and_removes_nothing(
    args: list[str], problem: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    answer = call(["runs", *args])
    assert (answer.code, left(root), problem in answer.err) == (2, ["a", "b", "c"], True)
    assert len([line for line in answer.error_lines if line.startswith("esper: error")]) == 1


def test_a_dry_run_shows_what_would_go_and_removes_nothing(root: Path) -> None:
    answer = call(["runs", "prune", "--keep-last", "1", "--dry-run", "--json"])
    assert (answer.code, left(root)) == (0, ["a", "b", "c"])
    rows = json.loads(answer.out)
    assert [(row["path"], row["state"], row["is_removed"]) for row in rows] == [
        ("runs/a", "finished", False),
        ("runs/b", "finished", False),
    ]
    assert "nothing was removed" in answer.err


def test_pruning_takes_states_that_are_named(root: Path) -> None:
    args = ["runs", "prune", "runs", "--state", "interrupted", "--state", "killed", "--yes"]
    assert call(args).code == 0
    assert left(root) == ["a", "b"]


def test_pruning_checkpoints_keeps_results(root: Path) -> None:
    assert call(["runs", "prune", "--checkpoints", "--yes"]).code == 0
    assert left(root) == ["a", "b", "c"]
    assert [(root / name / "checkpoints").exists() for name in "abc"] == [False, False, True]
    assert call(["runs", "ls"]).code == 0


def test_a_run_that_is_used_by_now_does_not_keep_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    opened: list[RunFolder] = []

    def resume_meanwhile(self: Terminal) -> bool:
        opened.append(RunFolder.open(root / "a"))
        return True

    monkeypatch.setattr(Terminal, "isatty", resume_meanwhile)
    answer = call(["runs", "prune", "--older-than", "0"])
    opened[0].close()
    assert (answer.code, left(root)) == (2, ["a", "c"])
    assert "is running" in answer.err


def test_the_start_of_a_run_that_wrote_nothing_yet_is_no_run(root: Path) -> None:
    (root / "begun").mkdir()
    with pytest.raises(RunDirectoryError):
        RunFolder.open(root / "begun")
    assert call(["runs", "rm", "runs/begun", "--yes"]).code == 2


def test_help_needs_no_run() -> None:
    for verb in ("rm", "prune"):
        answer = call(["runs", verb, "--help"])
        assert (answer.code, "--yes" in answer.out) == (0, True)
