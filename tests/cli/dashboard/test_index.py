"""Runs by opaque id: nothing in a request becomes a path, no link leads out, few runs are held at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from battery_rows import BatteryRecord
from cli.dashboard.sample_runs import describe, entry_of, make_run, make_training, open_views
from esper.cli.dashboard.index import MAX_OPEN_RUNS, RunIndex, describe_entry, is_inside, run_id_of

SECRET = "outside of the root"


def test_runs_are_listed_by_an_id_that_stays_the_same(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one")
    index = RunIndex(tmp_path)
    assert list(index.entries()) == [run_id_of(folder)]
    assert RunIndex(tmp_path).find(run_id_of(folder)) is not None
    assert index.find("one") is None, "a name is no id"


def test_a_run_directory_itself_may_be_the_root(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one")
    make_run(tmp_path, "two")
    assert [entry.name for entry in RunIndex(folder).entries().values()] == ["one"]


def test_a_root_that_does_not_exist_holds_no_run(tmp_path: Path) -> None:
    assert not RunIndex(tmp_path / "later").entries()


def test_a_run_that_cannot_be_read_is_listed_with_its_problem(tmp_path: Path) -> None:
    make_run(tmp_path, "one")
    (tmp_path / "one" / "status.json").write_text("{", encoding="utf-8")
    (entry,) = RunIndex(tmp_path).entries().values()
    assert "not JSON" in entry.problem
    assert describe_entry(entry)["state"] == "unreadable"


def test_a_row_says_what_the_run_came_to(tmp_path: Path) -> None:
    make_run(tmp_path, "host", seed=4)
    make_training(tmp_path, "ppo")
    rows = {entry.name: describe_entry(entry) for entry in RunIndex(tmp_path).entries().values()}
    assert (rows["host"]["seed"], rows["host"]["metric_name"], rows["host"]["epoch"]) == (4, "accuracy", 40)
    assert (rows["ppo"]["is_training"], rows["ppo"]["horizon"], rows["ppo"]["num_envs"]) == (True, 20, 2)


@pytest.mark.battery("T49")
@pytest.mark.parametrize("linked", ["folder", "meta.json", "status.json"])
def test_a_link_in_the_place_of_a_run_or_its_records_is_not_followed(
    linked: str, tmp_path: Path, battery: BatteryRecord
) -> None:
    outside = make_run(tmp_path / "outside", "secret")
    root = tmp_path / "runs"
    make_run(root, "real")
    if linked == "folder":
        (root / "link").symlink_to(outside)
    else:
        make_run(root, "link")
        (root / "link" / linked).unlink()
        (root / "link" / linked).symlink_to(outside / linked)
    names = [entry.name for entry in RunIndex(root).entries().values()]
    battery.record(failures=int(names != ["real"]))
    assert names == ["real"]


@pytest.mark.battery("T49")
def test_a_link_in_the_place_of_an_event_file_is_not_followed(tmp_path: Path, battery: BatteryRecord) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    folder = make_run(tmp_path / "runs", "one")
    (folder / "events-0.jsonl").unlink()
    (folder / "events-0.jsonl").symlink_to(secret)
    (folder / "config.toml").unlink()
    (folder / "config.toml").symlink_to(secret)
    os.mkfifo(folder / "events-1.jsonl")
    views = open_views(tmp_path / "runs")
    entry = entry_of(views, folder)
    told = json.dumps([views.head(entry), views.growth(entry, 0), views.compare([]), views.overview()])
    battery.record(failures=int(SECRET in told))
    assert SECRET not in told


@pytest.mark.battery("T49")
@given(
    wanted=st.text(max_size=60)
    | st.sampled_from(["..", "../secret", "%2e%2e%2f", "..\\secret", "/etc", "a\0b", "."])
)
def test_no_id_finds_a_run_but_those_that_were_given_out(
    wanted: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "ids"
    if not root.exists():
        make_run(root / "runs", "one")
        make_run(root, "secret")
    index = RunIndex(root / "runs")
    found = index.find(wanted)
    assert found is None or found.id == wanted
    for entry in index.entries().values():
        assert entry.info.path.resolve().is_relative_to((root / "runs").resolve())


def test_a_folder_outside_of_the_root_is_never_inside(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one")
    assert is_inside(folder, tmp_path.resolve())
    assert not is_inside(folder, (tmp_path / "other").resolve())


@pytest.mark.battery("T49")
def test_few_runs_are_held_at_the_same_time(tmp_path: Path, battery: BatteryRecord) -> None:
    folders = [make_run(tmp_path, f"run{number}") for number in range(MAX_OPEN_RUNS + 3)]
    index = RunIndex(tmp_path)
    stores = [index.open(index.entries()[run_id_of(folder)]) for folder in folders]
    again = [index.open(index.entries()[run_id_of(folder)]) for folder in folders[-MAX_OPEN_RUNS:]]
    battery.record(n=len(folders))
    assert all(store is held for store, held in zip(stores[-MAX_OPEN_RUNS:], again, strict=True))
    assert index.open(index.entries()[run_id_of(folders[0])]) is not stores[0], "the first was let go"


def test_another_run_in_the_place_of_one_is_read_anew(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one")
    index = RunIndex(tmp_path)
    first = index.entries()[run_id_of(folder)]
    describe(folder, "another", state="finished")
    index.look_again()
    assert index.entries()[run_id_of(folder)] is not first
