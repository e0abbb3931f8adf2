"""Only whole runs that nobody uses are removed, no link is followed, and a kill leaves no half run."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.leyline import ExitCode, InterruptedRunError, RunDirectoryError
from esper.runtime.run_folder import RunFolder, RunOrigin
from esper.runtime.run_lock import RunLock
from esper.runtime.run_records import list_runs
from esper.runtime.run_removal import (
    RunChoice,
    check_removable,
    choose_runs,
    empty_trash,
    remove,
    total_bytes,
)

NOW = datetime(2026, 1, 31, tzinfo=UTC)
STOPPED = InterruptedRunError("stopped", ExitCode.SIGTERM)
EVERY_STATE = ("finished", "failed", "interrupted", "killed")


def make_run(path: Path, *, error: Exception | None = None, age_days: float = 0.0) -> Path:
    """A run that ended, with a checkpoint of 1,000 bytes; it last changed so many days before `NOW`."""
    folder = RunFolder.create(path, config_text="", origin=RunOrigin(task="digits", policy="never", seed=0))
    folder.__exit__(None if error is None else type(error), error, None)
    (path / "checkpoints" / "e0001-b00000").mkdir(parents=True)
    (path / "checkpoints" / "e0001-b00000" / "tensors").write_bytes(b"x" * 1_000)
    status = json.loads((path / "status.json").read_bytes())
    status["updated_at"] = (NOW - timedelta(days=age_days)).isoformat()
    (path / "status.json").write_text(json.dumps(status), encoding="utf-8")
    return path


def names(root: Path, choice: RunChoice) -> list[str]:
    return [removal.run.name for removal in choose_runs(root, choice, NOW)]


def test_a_run_is_removed_whole_and_its_size_is_told_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    removal = check_removable(run)
    assert removal.num_bytes == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert total_bytes([removal, removal]) == 2 * removal.num_bytes > 2_000
    remove(removal)
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_use_is_never_removed(tmp_path: Path) -> None:
    run = tmp_path / "a"
    with RunFolder.create(run, config_text="", origin=RunOrigin(task="t", policy="p", seed=0)):
        with pytest.raises(RunDirectoryError, match="is running"):
            check_removable(run)
        assert names(tmp_path, RunChoice(states=EVERY_STATE)) == []
    removal = check_removable(run)
    with RunFolder.open(run), pytest.raises(RunDirectoryError, match="is running"):
        remove(removal)  # it was resumed meanwhile
    assert check_removable(run) == removal


@pytest.mark.parametrize("lock", ["lock", "ranks/lock"])
def test_the_lock_decides_whatever_the_status_says(lock: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "ranks").mkdir()
    held = RunLock(run / lock)
    with pytest.raises(RunDirectoryError, match="in use"):
        remove(check_removable(run))
    held.release()
    remove(check_removable(run))
    assert not run.exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "precious").touch()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "meta.json").write_text('{"format_version": 99}', encoding="utf-8")
    for path in (tmp_path / "plain", foreign, tmp_path / "gone"):
        with pytest.raises(RunDirectoryError):
            check_removable(path)
    assert (tmp_path / "plain" / "precious").exists()


def test_a_run_that_cannot_tell_its_state_can_be_removed_by_name_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "status.json").write_text("rubbish", encoding="utf-8")
    assert names(tmp_path, RunChoice(states=EVERY_STATE)) == []
    assert check_removable(run).state == "unreadable"


def test_links_are_never_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", make_run(tmp_path / "elsewhere")
    inside = make_run(root / "a")
    (root / "link").symlink_to(elsewhere)
    (inside / "data").symlink_to(elsewhere, target_is_directory=True)
    (inside / "file").symlink_to(elsewhere / "meta.json")
    with pytest.raises(RunDirectoryError, match="is a link"):
        check_removable(root / "link")
    assert names(root, RunChoice()) == ["a"]
    remove(check_removable(inside))
    assert (elsewhere / "checkpoints" / "e0001-b00000" / "tensors").exists()


def test_a_run_inside_another_is_not_removed_with_it(tmp_path: Path) -> None:
    outer = make_run(tmp_path / "a")
    make_run(outer / "b")
    with pytest.raises(RunDirectoryError, match="holds another run"):
        check_removable(outer)
    make_run(tmp_path / "c" / "ranks" / "set-aside")  # what a launcher keeps of an attempt is no run
    shutil.copytree(outer / "b", tmp_path / "c", dirs_exist_ok=True)
    assert check_removable(tmp_path / "c").run == tmp_path / "c"


@pytest.mark.fault
def test_a_kill_while_deleting_leaves_nothing_that_looks_like_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a")

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            remove(check_removable(run))
    assert not run.exists()
    assert list_runs(tmp_path) == ()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".trash-")
    link = tmp_path / f".trash-{'0' * 32}"
    link.symlink_to(make_run(tmp_path / "b"))
    (tmp_path / ".trash-mine").mkdir()
    remove(check_removable(make_run(tmp_path / "c")))  # finishes what was begun, and touches nothing else
    assert {path.name for path in tmp_path.iterdir()} == {link.name, ".trash-mine", "b"}
    assert empty_trash(tmp_path) == 0


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(RunDirectoryError, match=r"cannot be removed whole: .*Permission denied"):
        remove(check_removable(run))


def test_age_state_and_the_newest_decide_together(tmp_path: Path) -> None:
    for name, age, error in (
        ("old", 40, None),
        ("older", 50, ValueError("x")),
        ("stopped", 60, STOPPED),
        ("new", 1, None),
    ):
        make_run(tmp_path / name, error=error, age_days=age)
    assert names(tmp_path, RunChoice()) == ["older", "old", "new"]
    assert names(tmp_path, RunChoice(min_age_days=40)) == ["older", "old"]
    assert names(tmp_path, RunChoice(min_age_days=41)) == ["older"]
    assert names(tmp_path, RunChoice(num_kept=2)) == ["older"]
    assert names(tmp_path, RunChoice(num_kept=9)) == []
    assert names(tmp_path, RunChoice(states=("interrupted",))) == ["stopped"]
    assert names(tmp_path / "gone", RunChoice()) == []


def test_only_checkpoints_of_finished_runs_go_and_results_stay(tmp_path: Path) -> None:
    finished = make_run(tmp_path / "a")
    make_run(tmp_path / "b", error=STOPPED)
    make_run(tmp_path / "c", error=ValueError("x"))
    make_run(tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "checkpoints")
    (tmp_path / "d" / "checkpoints").symlink_to(tmp_path / "b" / "checkpoints")
    (removal,) = choose_runs(tmp_path, RunChoice(has_checkpoints_only=True), NOW)
    assert (removal.run, removal.path, removal.num_bytes) == (finished, finished / "checkpoints", 1_000)
    remove(removal)
    assert sorted(path.name for path in finished.iterdir()) == [
        "config.toml",
        "lock",
        "meta.json",
        "status.json",
    ]
    assert (tmp_path / "b" / "checkpoints" / "e0001-b00000").exists()
