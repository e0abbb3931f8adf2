from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from esper.leyline import (
    DataError,
    ExitCode,
    GovernorGaveUpError,
    InterruptedRunError,
    RunDirectoryError,
)
from esper.runtime import run_folder
from esper.runtime.run_folder import (
    RunFolder,
    RunOrigin,
    default_run_path,
    describe_end,
    package_versions,
    read_git_commit,
    refuse_occupied,
    replace_text,
)
from esper.runtime.run_records import read_meta, read_run_info, read_status

ORIGIN = RunOrigin(task="digits", policy="never", seed=3, argv=("train", "never"))

_RUN = """
import sys
from pathlib import Path
from esper.runtime.run_folder import RunFolder, RunOrigin
folder = RunFolder.create(
    Path(sys.argv[1]), config_text="seed = 3\\n", origin=RunOrigin(task="digits", policy="never", seed=3)
)
print("created", flush=True)
sys.stdin.read()
"""


def _create(path: Path) -> RunFolder:
    return RunFolder.create(path, config_text="seed = 3\n", origin=ORIGIN)


def test_everything_is_written_before_the_first_step(tmp_path: Path) -> None:
    with _create(tmp_path / "runs" / "a") as folder:
        assert folder.config_path.read_text(encoding="utf-8") == "seed = 3\n"
        meta, status = read_meta(folder.path), read_status(folder.path)
        assert folder.checkpoints_path == folder.path / "checkpoints"
        names = {path.name for path in folder.path.iterdir()}
    assert names == {"lock", "config.toml", "meta.json", "status.json"}
    assert (meta["format_version"], meta["run_id"]) == (1, folder.run_id)
    assert (meta["task"], meta["policy"], meta["seed"]) == ("digits", "never", 3)
    assert meta["argv"] == ["train", "never"]
    assert meta["versions"] == package_versions()
    assert "git_commit" in meta
    assert str(meta["started_at"]).endswith("+00:00")
    assert (status["state"], status["exit_code"], status["attempt"]) == ("running", None, 0)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (None, "finished", 0),
        (InterruptedRunError("stopped", ExitCode.SIGTERM), "interrupted", 143),
        (KeyboardInterrupt(), "interrupted", 130),
        (GovernorGaveUpError("failed again"), "failed", 6),
        (DataError("gone"), "failed", 3),
        (RuntimeError("a\nbug"), "failed", 1),
    ],
)
def test_the_end_of_a_run_is_recorded(
    error: BaseException | None, state: str, code: int, tmp_path: Path
) -> None:
    def run() -> None:
        with _create(tmp_path / "a"):
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    status = read_status(tmp_path / "a")
    assert (status["state"], status["exit_code"]) == (state, code) == describe_end(error)
    assert "\n" not in str(status["reason"])
    RunFolder.open(tmp_path / "a").close()


def test_an_end_recorded_by_the_run_itself_stands(tmp_path: Path) -> None:
    with _create(tmp_path / "a") as folder:
        folder.set_status("failed", exit_code=6, reason="governor")
    assert read_status(tmp_path / "a")["reason"] == "governor"


def test_opening_again_counts_attempts_and_keeps_the_run_id(tmp_path: Path) -> None:
    with _create(tmp_path / "a") as first:
        pass
    with RunFolder.open(tmp_path / "a") as second:
        assert (second.run_id, second.attempt) == (first.run_id, 1)
        assert read_status(second.path)["state"] == "running"
    with RunFolder.open(tmp_path / "a") as third:
        assert third.attempt == 2


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    with (
        _create(tmp_path / "a"),
        pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"),
    ):
        RunFolder.open(tmp_path / "a")


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    _create(tmp_path / "a").close()
    before = read_meta(tmp_path / "a")
    with pytest.raises(RunDirectoryError, match="--resume"):
        _create(tmp_path / "a")
    assert read_meta(tmp_path / "a") == before


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=r"'notes.txt'"):
        _create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_start_that_died_halfway_may_be_repeated(tmp_path: Path) -> None:
    for name in ("lock", "config.toml", "status.json", ".tmp-meta.json-0"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with _create(tmp_path) as folder:
        assert folder.attempt == 0


def test_a_run_may_begin_where_a_launcher_has_made_its_folder(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    refuse_occupied(tmp_path)
    _create(tmp_path).close()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        refuse_occupied(tmp_path)


@pytest.mark.parametrize("name", ["file", "a\0b"])
def test_a_path_that_cannot_be_a_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        _create(tmp_path / name)


@pytest.mark.parametrize("opened", [False, True])
def test_a_full_disk_is_refused_and_the_lock_given_back(
    opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opened:
        _create(tmp_path).close()

    def fail(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_text", fail)
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            RunFolder.open(tmp_path) if opened else _create(tmp_path)
    (RunFolder.open(tmp_path) if opened else _create(tmp_path)).close()


@pytest.mark.parametrize("opened", [False, True])
def test_an_interrupt_while_starting_gives_the_lock_back(
    opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opened:
        _create(tmp_path).close()

    def interrupt(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            RunFolder.open(tmp_path) if opened else _create(tmp_path)
    (RunFolder.open(tmp_path) if opened else _create(tmp_path)).close()


def test_an_unknown_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    _create(tmp_path).close()
    meta = {**read_meta(tmp_path), "format_version": 99}
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(
        RunDirectoryError, match="has format '99', this version reads 1; use the esper version"
    ):
        RunFolder.open(tmp_path)


def test_something_else_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a run"):
        RunFolder.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_default_names_tell_task_policy_seed_and_time_and_never_collide(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    first = default_run_path(tmp_path, ORIGIN, now)
    assert first == tmp_path / "digits-never-3-20260102-030405"
    first.mkdir()
    second = default_run_path(tmp_path, ORIGIN, now)
    second.mkdir()
    assert second.name == "digits-never-3-20260102-030405-2"
    assert default_run_path(tmp_path, ORIGIN, now).name == "digits-never-3-20260102-030405-3"


def test_versions_are_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    import_order = list(package_versions())
    assert import_order == ["esper-lite", "torch", "numpy", "python"]

    def miss(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", miss)
    assert package_versions()["torch"] == "not installed"


def test_the_commit_of_a_work_tree_is_read_and_marked_when_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert read_git_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-q", "--no-verify", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert read_git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert read_git_commit(tmp_path) == commit + "+dirty"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_git_commit(tmp_path) is None


def test_a_failed_replacement_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_text(tmp_path / "a", "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_a_killed_run_is_told_from_a_running_one_and_can_be_opened(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "created\n"
        assert read_run_info(tmp_path / "a").state == "running"
        with pytest.raises(RunDirectoryError, match=f"in use by process {process.pid}"):
            RunFolder.open(tmp_path / "a")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_run_info(tmp_path / "a").state == "killed"
    with RunFolder.open(tmp_path / "a") as folder:
        assert folder.attempt == 1
    assert read_run_info(tmp_path / "a").state == "finished"


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        ("own.policies:Plant", "own.policies-Plant"),
        ("runs/a/policy", "runs-a-policy"),
        ("../../etc", "etc"),
        ("/x" * 100, "x-" * 19 + "x"),
        ("schedule:late one.json", "schedule-late-one.json"),
    ],
)
def test_a_policy_that_is_a_path_or_a_class_stays_one_folder_name(
    policy: str, part: str, tmp_path: Path
) -> None:
    origin = RunOrigin(task="digits", policy=policy, seed=3)
    path = default_run_path(tmp_path, origin, datetime(2026, 1, 2, 3, 4, 5))
    assert path == tmp_path / f"digits-{part}-3-20260102-030405"
