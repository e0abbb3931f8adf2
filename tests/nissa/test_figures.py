"""Figures draw every history: empty ones, odd names, numbers that are not finite; and show what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from esper.nissa import (
    MetricCurves,
    TrainingCurves,
    compare_tasks,
    compute_curves,
    compute_fates,
    compute_run_row,
    compute_training_curves,
)
from esper.nissa.analytics.drawing import save_figure
from esper.nissa.analytics.figures import (
    MAX_SEEDS,
    MAX_SUBSETS,
    build_contributions,
    build_costs,
    build_fronts,
    build_rounds,
    build_subsets,
)
from nissa.sample_run import numbered, run_events
from nissa.sample_training import training_events
from nissa.test_coalitions import TABLE

EVENTS = tuple(run_events())
FATES, CURVES = compute_fates(EVENTS), compute_curves(EVENTS)
ROW = compute_run_row("a", numbered(EVENTS))


def _numbers(drawn: object) -> list[float]:
    """The data of a line."""
    return [float(value) for value in np.asarray(drawn)]


def test_costs_show_every_epoch_against_both_costs() -> None:
    figure = build_costs(CURVES, 0.938)
    by_params, by_flops = figure.axes[:2]
    assert _numbers(by_params.lines[0].get_xdata()) == list(CURVES.total_params)
    assert _numbers(by_flops.lines[0].get_xdata()) == list(CURVES.total_flops)
    assert save_figure(figure, "svg").data


def test_contributions_show_errors_and_shapley_values() -> None:
    figure = build_contributions(FATES, TABLE)
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["block2#1  conv_light", "block1#1  norm"]  # the third was never measured
    _, names = axes.get_legend_handles_labels()
    assert set(names) == {"contribution, fossilized", "contribution, culled", "Shapley value"}
    assert save_figure(figure, "svg").data


def test_subsets_stand_with_their_errors_the_empty_one_first() -> None:
    axes = build_subsets(TABLE).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "block2"]
    many = replace(TABLE, values=TABLE.values * MAX_SUBSETS, metric_name="loss")
    figure = build_subsets(many)
    assert len(figure.axes[0].get_yticklabels()) == MAX_SUBSETS
    assert figure.axes[0].get_xlabel().startswith("minus the loss")
    assert save_figure(figure, "svg").data


def test_only_the_latest_of_many_seeds_are_drawn() -> None:
    many = [replace(FATES[0], seed_id=f"s#{number}") for number in range(MAX_SEEDS + 5)]
    labels = build_contributions(many, None).axes[0].get_yticklabels()
    assert len(labels) == MAX_SEEDS
    assert labels[0].get_text().startswith("s#5 ")


def test_rounds_show_return_kl_entropy_and_explained_variance() -> None:
    curves = compute_training_curves(training_events())
    figure = build_rounds(curves)
    assert [axes.get_title("left").split(" (")[0] for axes in figure.axes] == [
        "return per host",
        "KL of an update",
        "entropy of the operation",
        "explained variance",
    ]
    assert _numbers(figure.axes[0].lines[0].get_ydata()) == list(curves.metrics["return"])


def test_empty_histories_still_draw() -> None:
    empty = compute_curves([])
    (comparison,) = compare_tasks([replace(ROW, test_metric=None, validation_metric=None)])
    for figure in (
        build_costs(empty, None),
        build_contributions([], None),
        build_rounds(TrainingCurves()),
        build_fronts(comparison),
    ):
        assert save_figure(figure, "png").data


def test_odd_names_and_numbers_draw_without_a_warning() -> None:
    curves: MetricCurves = replace(
        CURVES, metric_name="$\\frac", metric=(math.nan, math.inf, *CURVES.metric[2:])
    )
    odd = replace(FATES[0], seed_id="$x^", blueprint="\u4e2d_$", contribution_error=None)
    (comparison,) = compare_tasks(
        [replace(ROW, policy="$\\bad$ _", name="$"), replace(ROW, policy="_hidden", test_metric=math.nan)]
    )
    for figure in (build_costs(curves, math.nan), build_contributions([odd], None), build_fronts(comparison)):
        assert save_figure(figure, "svg").data


def test_fronts_show_every_policy_once() -> None:
    rows = [ROW, replace(ROW, name="b", seed=4, test_metric=0.95), replace(ROW, name="c", policy="never")]
    figure = build_fronts(compare_tasks(rows)[0])
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert sorted(labels) == ["Pareto front", "heuristic", "never"]
