"""Runs beside each other: groups by what changes results, mean and spread at shared points."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dashboard.sample_runs import make_run, open_views
from esper.cli.dashboard.comparison import MAX_COMPARED, compute_band, read_settings
from esper.leyline import JsonValue


def groups_of(root: Path) -> list[dict[str, JsonValue]]:
    found = open_views(root).compare([])
    assert isinstance(found, dict)
    groups = found["groups"]
    assert isinstance(groups, list)
    return [dict(group) for group in groups if isinstance(group, dict)]


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, f"a{seed}", seed=seed, config="[host]\nepochs = 40\n")
    make_run(tmp_path, "b", config="[host]\nepochs = 50\n")
    groups = groups_of(tmp_path)
    assert sorted(len(group["seeds"]) for group in groups if isinstance(group["seeds"], list)) == [1, 3]
    (larger,) = [group for group in groups if group["num_runs"] == 3]
    assert larger["differs"] == {"host.epochs": 40}
    assert larger["last_spread"] == 0.0


def test_settings_that_change_nothing_do_not_part_a_group(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config="[telemetry]\nconsole = 1\n[training]\nnum_updates = 3\n")
    make_run(tmp_path, "b", config="[telemetry]\nconsole = 2\n[training]\nnum_updates = 5\n")
    assert len(groups_of(tmp_path)) == 1


def test_differing_settings_are_listed_and_the_same_ones_are_not(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config="same = 1\n[host]\nepochs = 40\n")
    make_run(tmp_path, "b", config='same = 1\n[host]\nepochs = 50\nextra = "x"\n')
    found = open_views(tmp_path).compare([])
    assert isinstance(found, dict)
    settings = found["settings"]
    assert isinstance(settings, dict)
    assert settings["keys"] == ["host.epochs", "host.extra"]


@given(st.lists(st.dictionaries(st.integers(0, 20), st.floats(-5, 5), min_size=1), min_size=1, max_size=5))
def test_a_band_is_the_mean_and_the_deviation_where_all_have_a_point(curves: list[dict[int, float]]) -> None:
    band = compute_band(curves)
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    assert band["x"] == shared
    means, spreads = band["mean"], band["spread"]
    assert isinstance(means, list)
    assert isinstance(spreads, list)
    for index, x in enumerate(shared):
        column = [curve[x] for curve in curves]
        assert means[index] == pytest.approx(statistics.fmean(column))
        assert spreads[index] == pytest.approx(statistics.stdev(column) if len(column) > 1 else 0.0)


def test_no_curve_has_an_empty_band() -> None:
    assert compute_band([]) == {"x": [], "mean": [], "spread": []}


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = ", b"x = 1\n" * 400_000])
def test_settings_that_cannot_be_read_are_empty(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    assert read_settings(tmp_path) == {}


def test_a_configuration_behind_a_link_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.toml"
    outside.write_text("secret = 1\n", encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").symlink_to(outside)
    assert read_settings(run) == {}


def test_at_most_so_many_runs_are_compared(tmp_path: Path) -> None:
    for number in range(MAX_COMPARED + 2):
        make_run(tmp_path, f"run{number:02}", [], seed=number)
    found = open_views(tmp_path).compare([])
    assert isinstance(found, dict)
    assert found["num_left_out"] == 2
