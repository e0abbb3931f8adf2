from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Event, JsonValue, RunFinished, RunStarted
from esper.nissa import (
    RunEntry,
    compare_runs,
    compute_spread,
    compute_strips,
    compute_summary,
    effective_events,
    find_differences,
    tells_apart,
)
from nissa.sample_run import EPOCHS, numbered, run_events
from nissa.sample_training import training_events

SETTINGS: Mapping[str, JsonValue] = {"seed": 0, "host.epochs": 40, "policy": "heuristic"}


def _host(
    name: str,
    *,
    seed: int = 0,
    accuracy: float = 0.9,
    is_whole: bool = True,
    others: Mapping[str, JsonValue] | None = None,
) -> RunEntry:
    events: list[Event] = []
    for event in run_events():
        if isinstance(event, RunStarted):
            event = replace(event, seed=seed)
        elif isinstance(event, RunFinished):
            event = replace(event, test_metrics={"accuracy": accuracy})
        events.append(event)
    settings = {**SETTINGS, "seed": seed, **(others or {})}
    return RunEntry(name=name, settings=settings, records=numbered(events if is_whole else events[:-1]))


def test_settings_of_trainings_do_not_part_hosts_nor_settings_without_effect_anything() -> None:
    for key in ("seed", "telemetry.profile", "checkpoint.every_epochs", "git_commit"):
        assert not tells_apart(key, is_training=True)
        assert not tells_apart(key, is_training=False)
    for key in ("training.num_updates", "fleet.kind"):
        assert tells_apart(key, is_training=True)
        assert not tells_apart(key, is_training=False)
    assert tells_apart("host.epochs", is_training=False)


def test_only_settings_that_differ_are_named_also_where_one_file_lacks_them() -> None:
    rows = find_differences([{"a": 1, "b": [1, 2], "c": None}, {"a": 1, "b": [1, 3], "d": "x"}])
    assert [(row.key, row.values) for row in rows] == [("b", ([1, 2], [1, 3])), ("d", (None, "x"))]


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), min_size=2, max_size=4))
def test_a_setting_is_named_exactly_if_two_runs_do_not_agree(settings: list[dict[str, JsonValue]]) -> None:
    named = {row.key for row in find_differences(settings)}
    assert named == {key for key in "abcd" if len({each.get(key) for each in settings}) > 1}


def test_a_run_has_the_figures_of_its_summary() -> None:
    entry = _host("a")
    run = compare_runs([entry, _host("b", seed=1)]).runs[0]
    summary = compute_summary(entry.records)
    assert run.figures["best_accuracy"] == summary.best_metric
    assert run.figures["test_accuracy"] == 0.9
    assert run.figures["total_params"] == summary.total_params
    assert run.figures["total_flops"] == EPOCHS * 129_000_000
    assert run.strips == compute_strips(effective_events(entry.records))
    assert (run.kind, run.num_done, run.num_planned) == ("host", EPOCHS, EPOCHS)


def test_runs_that_differ_by_seed_only_are_one_group() -> None:
    entries = [
        _host("a", seed=0, accuracy=0.8),
        _host("b", seed=1, accuracy=0.9),
        _host("c", seed=2, accuracy=0.5, others={"policy": "never"}),
        _host("d", seed=3, accuracy=0.85, others={"telemetry.progress": "none", "git_commit": "abc"}),
    ]
    (group,) = compare_runs(entries).groups
    assert (group.names, group.seeds, group.num_unfinished) == (("a", "b", "d"), (0, 1, 3), 0)
    spread = group.spreads["test_accuracy"]
    assert spread.mean == pytest.approx(0.85)
    assert spread.deviation == pytest.approx(statistics.stdev([0.8, 0.9, 0.85]))
    assert (spread.low, spread.high, spread.num_runs) == (0.8, 0.9, 3)


def test_an_unfinished_run_does_not_count_in_a_spread() -> None:
    (group,) = compare_runs([_host("a"), _host("b", seed=1), _host("c", seed=2, is_whole=False)]).groups
    assert (group.num_unfinished, group.spreads["best_accuracy"].num_runs) == (1, 2)


def test_runs_of_which_nothing_is_known_are_no_group() -> None:
    entries = [replace(_host(name), settings={}) for name in "ab"]
    assert compare_runs(entries).groups == ()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_a_spread_equals_that_of_the_standard_library(values: list[float]) -> None:
    spread = compute_spread(values)
    assert spread is not None
    assert spread.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert spread.deviation == pytest.approx(statistics.stdev(values), abs=1e-5, rel=1e-9)


def test_numbers_that_are_not_finite_are_left_out_of_a_spread() -> None:
    spread = compute_spread([1.0, math.nan, math.inf])
    assert spread is not None
    assert (spread.mean, spread.deviation, spread.num_runs) == (1.0, None, 1)
    assert compute_spread([math.nan]) is None


def test_a_training_is_compared_by_the_means_of_its_last_rounds() -> None:
    entries = [RunEntry(name=name, settings={}, records=numbered(training_events(20))) for name in "ab"]
    run = compare_runs(entries).runs[0]
    assert (run.kind, run.num_done, run.figures["num_env_steps"]) == ("training", 20, 400.0)
    assert run.figures["return"] == pytest.approx(0.18)  # rounds 16 to 20
    assert run.returns[-1] == pytest.approx(0.2)


def test_strips_share_the_longest_axis() -> None:
    assert compare_runs([_host("a"), _host("b", is_whole=False)]).num_epochs == EPOCHS
    assert compare_runs([RunEntry(name=name, settings={}, records=()) for name in "ab"]).num_epochs == 0


def test_a_comparison_is_plain_json() -> None:
    training = RunEntry(name="t", settings={"seed": 1}, records=numbered(training_events(3)))
    comparison = compare_runs([_host("a"), _host("b", seed=1, accuracy=math.nan), training])
    plain = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert [run["name"] for run in plain["runs"]] == ["a", "b", "t"]
    assert plain["runs"][1]["figures"]["test_accuracy"] is None
    assert plain["groups"][0]["seeds"] == [0, 1]
