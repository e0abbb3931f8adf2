"""Runs side by side: mean and spread by policy, the right split, and the right direction."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest

from esper.leyline import EpochCompleted, Event, RunFinished
from esper.nissa import RunRow, compare_tasks, compute_run_row
from esper.nissa.analytics.comparison import compute_spread
from nissa.sample_run import numbered, run_events

ROW = compute_run_row("a", numbered(run_events()))


def row(name: str, policy: str, seed: int, test: float | None, **others: int) -> RunRow:
    return replace(ROW, name=name, policy=policy, seed=seed, test_metric=test, **others)  # type: ignore[arg-type]


def test_a_row_sums_up_one_run() -> None:
    assert (ROW.task, ROW.policy, ROW.seed, ROW.test_metric) == ("digits", "heuristic", 3, 0.938)
    assert (ROW.total_params, ROW.total_flops, ROW.num_fossils) == (7_622, 5_160_000_000, 1)
    assert ROW.to_json()["name"] == "a"


def test_policies_have_mean_and_spread_the_best_first() -> None:
    (found,) = compare_tasks(
        [row("a", "never", 0, 0.90), row("b", "never", 1, 0.92), row("c", "greedy", 0, 0.95)]
    )
    assert [policy.policy for policy in found.policies] == ["greedy", "never"]
    never = found.policies[1]
    assert never.seeds == (0, 1)
    assert never.metric is not None
    assert never.metric.mean == pytest.approx(0.91)
    assert never.metric.deviation == pytest.approx(statistics.stdev([0.90, 0.92]))
    assert found.split == "test"
    assert found.policies[0].metric == compute_spread([0.95])
    assert found.policies[0].params.deviation is None


def test_without_the_test_split_of_one_run_the_best_validation_counts() -> None:
    (found,) = compare_tasks([row("a", "never", 0, 0.90), row("b", "never", 1, None)])
    assert found.split == "best validation"
    assert found.policies[0].metric is not None
    assert found.policies[0].metric.mean == ROW.validation_metric


def test_tasks_are_never_mixed() -> None:
    found = compare_tasks([row("a", "never", 0, 0.9), replace(ROW, task="other")])
    assert [comparison.task for comparison in found] == ["digits", "other"]


def test_fronts_hold_whom_nobody_beats() -> None:
    (found,) = compare_tasks(
        [
            row("small", "never", 0, 0.90, total_params=100, total_flops=50),
            row("large", "never", 1, 0.95, total_params=200, total_flops=40),
            row("worse", "never", 2, 0.89, total_params=300, total_flops=60),
        ]
    )
    assert [point.name for point in found.params_front] == ["small", "large"]
    assert [point.name for point in found.flops_front] == ["large"]
    assert found.to_json()["split"] == "test"


def perplexed() -> list[Event]:
    """The sample run with a perplexity in place of the accuracy."""
    events: list[Event] = []
    for event in run_events():
        if isinstance(event, EpochCompleted):
            loss = event.validation_loss
            event = replace(event, metric=-loss, raw_metrics={"perplexity": math.exp(loss)})
        elif isinstance(event, RunFinished):
            event = replace(event, test_metrics={"perplexity": 1.3})
        events.append(event)
    return events


def test_a_perplexity_is_the_better_the_lower_it_is() -> None:
    found = compute_run_row("a", numbered(perplexed()))
    assert (found.metric_name, found.is_higher_better, found.test_metric) == ("perplexity", False, 1.3)
    (comparison,) = compare_tasks(
        [replace(found, policy="p", test_metric=1.4), replace(found, name="b", policy="q", test_metric=1.2)]
    )
    assert [policy.policy for policy in comparison.policies] == ["q", "p"]
    assert [point.name for point in comparison.params_front] == ["b"]
