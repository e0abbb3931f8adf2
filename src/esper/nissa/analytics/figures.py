"""Figures beside the timeline: what the metric cost, what seeds brought, how a training went, fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from esper.nissa.analytics.coalitions import CoalitionTable
from esper.nissa.analytics.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    SERIES,
    add_grid,
    dress,
    label_amount,
    label_metric,
    new_figure,
    shorten,
)
from esper.nissa.analytics.history import MetricCurves, SeedFate
from esper.nissa.analytics.task_comparison import RunRow, TaskComparison
from esper.nissa.analytics.training import TrainingCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SEEDS = 40
"""Seeds in the figure of contributions, the latest; the table has all."""
MAX_SUBSETS = 32
"""Subsets of the fossils in their figure, the smallest; the file has all."""

_OUTCOMES: Mapping[str, str] = MappingProxyType({"fossilized": GREEN, "culled": RED, "live": BLUE})
_ROUNDS: Mapping[str, str] = MappingProxyType(
    {
        "return": "return per host",
        "approx_kl": "KL of an update",
        "op_entropy": "entropy of the operation (share of its maximum)",
        "explained_variance": "explained variance",
    }
)
_MARKERS = "os^DvPX*"


def build_costs(curves: MetricCurves, test_metric: float | None) -> Figure:
    """Return the metric against parameters and against FLOPs, one point per epoch.

    Args:
        curves: Of the run.
        test_metric: The same metric on the test split; None = not read.
    """
    figure = new_figure(10.0, 3.6)
    by_params, by_flops = figure.subplots(1, 2, sharey=True)
    for axes, costs in ((by_params, curves.total_params), (by_flops, curves.total_flops)):
        axes.plot(costs, _finite(curves.metric), color=GREY, linewidth=0.9, zorder=1)
        points = axes.scatter(
            costs, _finite(curves.metric), c=curves.epochs, cmap="viridis", s=18, zorder=2, linewidths=0
        )
        if test_metric is not None and math.isfinite(test_metric) and costs:
            axes.scatter(
                [costs[-1]], [test_metric], marker="*", s=130, color=RED, label="test, at the end", zorder=3
            )
            axes.legend(loc="best", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")
        add_grid(axes)
        dress(axes)
    label_metric(by_params, f"validation {curves.metric_name}")
    label_amount(by_params, "parameters")
    label_amount(by_flops, "FLOPs spent, measuring included")
    if curves.epochs:
        figure.colorbar(points, ax=by_flops, label="epoch", pad=0.02)
    return figure


def build_contributions(fates: Sequence[SeedFate], coalitions: CoalitionTable | None) -> Figure:
    """Return what every measured seed brought, with its standard error, and Shapley values if there are any.

    Args:
        fates: Of all seeds; those that were never measured are left out.
        coalitions: Of the fossils; None = not measured.
    """
    measured = [f for f in fates if f.contribution is not None and math.isfinite(f.contribution)][-MAX_SEEDS:]
    shares = {row.seed_id: row for row in coalitions.shares} if coalitions is not None else {}
    figure = new_figure(10.0, 1.5 + 0.32 * max(3, len(measured)))
    axes = figure.subplots()
    for outcome, colour in _OUTCOMES.items():
        rows = [row for row, fate in enumerate(measured) if fate.outcome == outcome]
        if rows:
            axes.barh(
                rows,
                [measured[row].contribution or 0.0 for row in rows],
                xerr=[measured[row].contribution_error or 0.0 for row in rows],
                height=0.62,
                color=colour,
                alpha=0.75,
                error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
                label=f"contribution, {outcome}",
            )
    shown = [(row, shares[fate.seed_id]) for row, fate in enumerate(measured) if fate.seed_id in shares]
    if shown:
        axes.errorbar(
            [share.shapley for _, share in shown],
            [row for row, _ in shown],
            xerr=[math.hypot(share.standard_error, share.sampling_error) for _, share in shown],
            fmt="D",
            color="black",
            markersize=4.5,
            capsize=2.5,
            linewidth=1.0,
            label="Shapley value",
        )
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(measured)))
    axes.set_yticklabels(
        [f"{shorten(f.seed_id, 24)}  {shorten(f.blueprint, 20)}" for f in measured], parse_math=False
    )
    axes.set_ylim(max(len(measured), 1) - 0.4, -0.6)
    axes.set_xlabel("what the seed brings, \u00b1 standard error", color=INK)
    add_grid(axes)
    dress(axes)
    if measured:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9, frameon=False)
    return figure


def build_subsets(table: CoalitionTable) -> Figure:
    """Return the metric of every subset of the fossils with its standard error, the empty one first.

    Args:
        table: Of the fossils; the first `MAX_SUBSETS` are drawn.
    """
    shown = table.values[:MAX_SUBSETS]
    figure = new_figure(10.0, 1.2 + 0.3 * max(2, len(shown)))
    axes = figure.subplots()
    axes.errorbar(
        _finite([value.metric for value in shown]),
        range(len(shown)),
        xerr=_finite([value.standard_error for value in shown]),
        fmt="o",
        color=BLUE,
        markersize=5,
        capsize=2.5,
        linewidth=1.0,
    )
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([shorten(" + ".join(value.slots) or "none") for value in shown], parse_math=False)
    axes.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axes.set_ylabel("fossils that are on", color=INK)
    axes.set_xlabel(
        f"{shorten(table.quantity)} on validation items, \u00b1 standard error", color=INK, parse_math=False
    )
    add_grid(axes)
    dress(axes)
    return figure


def build_rounds(curves: TrainingCurves) -> Figure:
    """Return how a training went: return, KL, entropy and explained variance per round."""
    figure = new_figure(10.0, 5.6)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (name, title) in zip(panels.flat, _ROUNDS.items(), strict=True):
        values = curves.metrics.get(name, (None,) * len(curves.rounds))
        known = [math.nan if value is None else value for value in values]
        has_markers = len(curves.rounds) <= 60
        axes.plot(
            curves.rounds,
            _finite(known),
            color=BLUE,
            linewidth=1.5,
            marker="o" if has_markers else None,
            markersize=3,
        )
        if name == "explained_variance":
            axes.axhline(0.0, color=GREY, linewidth=0.9, linestyle=":")
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        add_grid(axes)
        dress(axes)
    for axes in panels[1]:
        axes.set_xlabel("round", color=INK)
        _count_in_integers(axes)
    return figure


def build_fronts(comparison: TaskComparison) -> Figure:
    """Return the runs of a task by metric, parameters and FLOPs, with the Pareto front of each pair."""
    figure = new_figure(10.0, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    fronts = (comparison.params_front, comparison.flops_front)
    texts = ("parameters at the end", "FLOPs spent, measuring included")
    policies = tuple(dict.fromkeys(row.policy for row in comparison.rows))
    for axes, front, text in zip(panels, fronts, texts, strict=True):
        if front:
            axes.step(
                [point.cost for point in front],
                [point.metric for point in front],
                where="post",
                color=GREY,
                linewidth=1.2,
                linestyle="--",
                label="Pareto front",
                zorder=1,
            )
        for place, policy in enumerate(policies):
            rows = [row for row in comparison.rows if row.policy == policy]
            _scatter_policy(axes, rows, comparison, text.startswith("FLOPs"), place)
        label_amount(axes, text)
        add_grid(axes)
        dress(axes)
    label_metric(panels[0], f"{comparison.split} {comparison.metric_name}")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _scatter_policy(
    axes: Axes, rows: Sequence[RunRow], comparison: TaskComparison, is_flops: bool, place: int
) -> None:
    found = [
        (row.total_flops if is_flops else row.total_params, row.metric_on(comparison.split)) for row in rows
    ]
    known = [(cost, metric) for cost, metric in found if metric is not None and math.isfinite(metric)]
    axes.scatter(
        [cost for cost, _ in known],
        [metric for _, metric in known],
        color=SERIES[place % len(SERIES)],
        marker=_MARKERS[place % len(_MARKERS)],
        s=34,
        alpha=0.9,
        label=shorten(rows[0].policy, 28).replace("$", r"\$"),
        zorder=2,
    )


def _count_in_integers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]
