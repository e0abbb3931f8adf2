from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import RunDirectoryError
from esper.runtime import run_records
from esper.runtime.run_folder import RunFolder, RunOrigin
from esper.runtime.run_records import list_runs, read_meta, read_run_info

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


def _make_run(path: Path, seed: int = 0) -> Path:
    with RunFolder.create(path, config_text="", origin=RunOrigin(task="digits", policy="never", seed=seed)):
        pass
    return path


def _edit(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, **changes}), encoding="utf-8")


def test_no_folder_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "runs") == ()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot be listed"):
        list_runs(tmp_path / "runs")


def test_runs_are_listed_oldest_first_and_other_folders_left_out(tmp_path: Path) -> None:
    late, early = _make_run(tmp_path / "a", seed=1), _make_run(tmp_path / "b", seed=2)
    _edit(late / "meta.json", started_at="2026-01-02T00:00:00+00:00")
    _edit(early / "meta.json", started_at="2026-01-01T00:00:00+00:00")
    (tmp_path / "other").mkdir()
    infos = list_runs(tmp_path)
    assert [info.path for info in infos] == [early, late]
    assert [(info.task, info.policy, info.seed) for info in infos] == [
        ("digits", "never", 2),
        ("digits", "never", 1),
    ]
    assert all((info.state, info.exit_code, info.attempt) == ("finished", 0, 0) for info in infos)
    assert infos[0].to_json()["path"] == str(early)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("status.json", "", "is not JSON"),
        ("status.json", "[" * 100_000, "is not JSON"),
        ("status.json", '{"a": 1}' + " " * 2**20, "expected a JSON object of at most"),
        ("meta.json", "[]", "expected a JSON object"),
        ("meta.json", '{"format_version": 2}', "has format '2', this version reads 1"),
        ("meta.json", '{"format_version": 1}', "'run_id' is missing or not text"),
    ],
)
def test_a_damaged_run_is_listed_with_its_problem(
    name: str, content: str, problem: str, tmp_path: Path
) -> None:
    path = _make_run(tmp_path / "a")
    (path / name).write_text(content, encoding="utf-8")
    (info,) = list_runs(tmp_path)
    assert problem in info.problem
    with pytest.raises(RunDirectoryError):
        read_run_info(path)


def test_a_missing_status_is_a_problem(tmp_path: Path) -> None:
    (_make_run(tmp_path / "a") / "status.json").unlink()
    assert "status.json cannot be read" in list_runs(tmp_path)[0].problem


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("status.json", {"state": "sleeping"}, "unknown state 'sleeping'"),
        ("status.json", {"attempt": True}, "'attempt' is missing or not an integer"),
        ("meta.json", {"seed": "3"}, "'seed' is missing or not an integer"),
    ],
)
def test_a_field_of_the_wrong_type_is_a_problem(
    name: str, changes: dict[str, object], problem: str, tmp_path: Path
) -> None:
    path = _make_run(tmp_path / "a")
    _edit(path / name, **changes)
    with pytest.raises(RunDirectoryError, match=problem):
        read_run_info(path)


def test_a_run_whose_lock_names_nobody_was_killed(tmp_path: Path) -> None:
    path = _make_run(tmp_path / "a")
    _edit(path / "status.json", state="running", exit_code=None)
    info = read_run_info(path)
    assert (info.state, info.exit_code) == ("killed", None)


def test_something_else_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is not a run: it holds no meta.json"):
        read_meta(tmp_path)


@given(meta=st.dictionaries(st.text(max_size=5), JSON, max_size=4), version=JSON)
def test_no_content_of_a_record_breaks_the_list(
    meta: dict[str, object], version: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "a"
    folder.mkdir()
    record = json.dumps({**meta, "format_version": version})
    for name in (run_records.META_NAME, run_records.STATUS_NAME):
        (folder / name).write_text(record, encoding="utf-8")
    (info,) = list_runs(folder.parent)
    assert info.problem
