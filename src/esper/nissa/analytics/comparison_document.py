"""Several runs as a document, task by task: by policy, by seed, one by one, and the Pareto fronts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from esper.nissa.analytics.comparison import Spread
from esper.nissa.analytics.document import Block, Document, FigureBlock, Section, TextBlock, build_table
from esper.nissa.analytics.figures import build_fronts
from esper.nissa.analytics.pareto import ParetoPoint
from esper.nissa.analytics.task_comparison import RunRow, TaskComparison
from esper.nissa.text import format_count, format_flops, format_metric, format_percent, is_fraction

_PLUS_MINUS = "\u00b1"
_DASH = "-"


def build_comparison(comparisons: Sequence[TaskComparison]) -> Document:
    """Return the document of several runs.

    Args:
        comparisons: As `compare_tasks` returns them.

    Example:
        >>> rows = [compute_run_row(name, log.records) for name in ("one", "two")]
        >>> build_comparison(compare_tasks(rows)).title
        '2 growth runs: synthetic'
    """
    num_runs = sum(len(comparison.rows) for comparison in comparisons)
    tasks = ", ".join(comparison.task or "unnamed task" for comparison in comparisons)
    sections = tuple(
        section for place, each in enumerate(comparisons) for section in _build_task(each, place)
    )
    return Document(
        title=f"{num_runs} growth runs: {tasks}",
        head=(
            TextBlock(
                text=f"Runs are compared within a task only. {_PLUS_MINUS}: standard deviation over runs."
            ),
        ),
        sections=sections,
    )


def _build_task(comparison: TaskComparison, place: int) -> tuple[Section, ...]:
    task = comparison.task or "unnamed task"
    what = f"{comparison.split} {comparison.metric_name}"
    note = "" if comparison.split == "test" else " Not every run has read the test split."
    front_text = (
        "Nobody is better for less: the runs on the Pareto front. Runs that are equal in both stand together."
    )
    return (
        Section(
            title=f"{task}: policies",
            blocks=(
                TextBlock(text=f"Metric: {what}.{note}"),
                _policy_table(comparison, what),
                FigureBlock(
                    name=f"fronts-{place}",
                    alt=f"{task}: {what} against parameters and against FLOPs, with Pareto fronts",
                    draw=partial(build_fronts, comparison),
                ),
            ),
        ),
        Section(title=f"{task}: by seed", blocks=(_seed_table(comparison),)),
        Section(title=f"{task}: runs", blocks=(_run_table(comparison),)),
        Section(
            title=f"{task}: Pareto front",
            blocks=(TextBlock(text=front_text), _front_table(comparison)),
        ),
    )


def _policy_table(comparison: TaskComparison, what: str) -> Block:
    rows = [
        (
            row.policy,
            str(row.metric.num_runs if row.metric is not None else 0),
            _DASH if row.metric is None else _metric_spread(comparison.metric_name, row.metric),
            _count_spread(row.params),
            _flops_spread(row.flops),
            _plain_spread(row.fossils),
        )
        for row in comparison.policies
    ]
    return build_table(("policy", "runs", what, "parameters", "FLOPs", "fossils"), rows)


def _seed_table(comparison: TaskComparison) -> Block:
    policies = [row.policy for row in comparison.policies]
    seeds = sorted({row.seed for row in comparison.rows})
    rows = []
    for seed in seeds:
        cells = [
            ", ".join(
                _value(comparison, row) for row in comparison.rows if (row.policy, row.seed) == (policy, seed)
            )
            for policy in policies
        ]
        rows.append((str(seed), *(cell or _DASH for cell in cells)))
    spreads = [row.metric for row in comparison.policies]
    rows.append(
        (
            "all",
            *(
                _DASH if spread is None else _metric_spread(comparison.metric_name, spread)
                for spread in spreads
            ),
        )
    )
    return build_table(("seed", *policies), rows)


def _run_table(comparison: TaskComparison) -> Block:
    rows = [
        (
            row.name,
            row.policy,
            str(row.seed),
            _value(comparison, row),
            format_count(row.total_params),
            format_flops(row.total_flops),
            str(row.num_fossils),
            row.status,
        )
        for row in comparison.rows
    ]
    head = ("run", "policy", "seed", comparison.metric_name, "parameters", "FLOPs", "fossils", "ended")
    return build_table(head, rows)


def _front_table(comparison: TaskComparison) -> Block:
    def tell(points: Sequence[ParetoPoint], against: str) -> list[tuple[str, ...]]:
        return [
            (
                against,
                point.name,
                format_metric(comparison.metric_name, point.metric),
                format_count(int(point.cost)) if against == "parameters" else format_flops(int(point.cost)),
            )
            for point in points
        ]

    rows = tell(comparison.params_front, "parameters") + tell(comparison.flops_front, "FLOPs")
    return build_table(("against", "run", comparison.metric_name, "cost"), rows)


def _value(comparison: TaskComparison, row: RunRow) -> str:
    metric = row.metric_on(comparison.split)
    return _DASH if metric is None else format_metric(comparison.metric_name, metric)


def _metric_spread(name: str, spread: Spread) -> str:
    mean = format_metric(name, spread.mean)
    if spread.deviation is None:
        return mean
    if is_fraction(name):
        return f"{mean.removesuffix(' %')} {_PLUS_MINUS} {format_percent(spread.deviation)}"
    return f"{mean} {_PLUS_MINUS} {format_metric(name, spread.deviation)}"


def _count_spread(spread: Spread) -> str:
    mean = format_count(round(spread.mean))
    return mean if not spread.deviation else f"{mean} {_PLUS_MINUS} {format_count(round(spread.deviation))}"


def _flops_spread(spread: Spread) -> str:
    mean = format_flops(round(spread.mean))
    return mean if not spread.deviation else f"{mean} {_PLUS_MINUS} {format_flops(round(spread.deviation))}"


def _plain_spread(spread: Spread) -> str:
    mean = f"{spread.mean:.1f}"
    return mean if not spread.deviation else f"{mean} {_PLUS_MINUS} {spread.deviation:.1f}"
