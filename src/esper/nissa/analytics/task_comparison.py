"""Several runs side by side: one row each, by policy with mean and spread, and whom nobody beats.

Runs are only compared within a task, on the test split if all of them have read it. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, final

from esper.leyline import JsonValue
from esper.nissa.analytics.comparison import Spread, compute_spread
from esper.nissa.analytics.history import compute_curves, effective_events, total_flops
from esper.nissa.analytics.pareto import ParetoPoint, find_front
from esper.nissa.analytics.summary import compute_summary
from esper.nissa.record import Record

Split = Literal["test", "best validation"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run."""

    name: str
    """Of its directory."""
    task: str
    policy: str
    seed: int
    status: str
    metric_name: str
    is_higher_better: bool
    test_metric: float | None
    """As a reader expects it; None = not read."""
    validation_metric: float | None
    """Of the best epoch; None = no epoch has ended."""
    total_params: int
    """Host and seeds at the end."""
    total_flops: int
    """Spent, plain validation left out."""
    num_fossils: int

    def metric_on(self, split: Split) -> float | None:
        """Return the metric on a split."""
        return self.test_metric if split == "test" else self.validation_metric

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """All runs of a policy on a task."""

    policy: str
    seeds: tuple[int, ...]
    metric: Spread | None
    """None = none of them has the metric."""
    params: Spread
    flops: Spread
    fossils: Spread


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """The runs of one task."""

    task: str
    metric_name: str
    is_higher_better: bool
    split: Split
    """"test" if every run has read it."""
    rows: tuple[RunRow, ...]
    """By policy, then seed, then name."""
    policies: tuple[PolicyRow, ...]
    """The best mean first."""
    params_front: tuple[ParetoPoint, ...]
    flops_front: tuple[ParetoPoint, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields by name."""
        return asdict(self)


def compute_run_row(name: str, records: Sequence[Record]) -> RunRow:
    """Sum up one host run for a comparison.

    Args:
        name: What to call it.
        records: As a reader returns them.

    Example:
        >>> row = compute_run_row("one", log.records)
        >>> row.policy, row.total_params, row.num_fossils
        ('cycle', 645, 1)
    """
    summary = compute_summary(records)
    curves = compute_curves(effective_events(records))
    return RunRow(
        name=name,
        task=summary.task,
        policy=summary.policy,
        seed=summary.seed,
        status=summary.status,
        metric_name=summary.metric_name,
        is_higher_better=curves.is_higher_better,
        test_metric=summary.test_metrics.get(summary.metric_name),
        validation_metric=summary.best_metric,
        total_params=summary.total_params,
        total_flops=total_flops(summary.flops),
        num_fossils=summary.num_fossilized,
    )


def compare_tasks(rows: Iterable[RunRow]) -> tuple[TaskComparison, ...]:
    """Return the runs of every task side by side, in the order in which the tasks were named.

    Example:
        >>> rows = [compute_run_row(name, log.records) for name in ("one", "two")]
        >>> (comparison,) = compare_tasks(rows)
        >>> comparison.task, comparison.split, comparison.policies[0].metric.num_runs
        ('synthetic', 'test', 2)
    """
    tasks: dict[tuple[str, str], list[RunRow]] = {}
    for row in rows:
        tasks.setdefault((row.task, row.metric_name), []).append(row)
    return tuple(_compare(group) for group in tasks.values())


def _compare(group: Sequence[RunRow]) -> TaskComparison:
    rows = tuple(sorted(group, key=lambda row: (row.policy, row.seed, row.name)))
    split: Split = "test" if all(row.test_metric is not None for row in rows) else "best validation"
    is_higher_better = all(row.is_higher_better for row in rows)
    policies = [
        _sum_up(policy, [row for row in rows if row.policy == policy], split)
        for policy in dict.fromkeys(row.policy for row in rows)
    ]
    sign = -1.0 if is_higher_better else 1.0
    policies.sort(key=lambda row: (math.inf if row.metric is None else sign * row.metric.mean, row.policy))

    def front(costs: Sequence[int]) -> tuple[ParetoPoint, ...]:
        found = [(row.name, row.metric_on(split), cost) for row, cost in zip(rows, costs, strict=True)]
        points = [ParetoPoint(name=name, metric=m, cost=cost) for name, m, cost in found if m is not None]
        return find_front(points, is_higher_better=is_higher_better)

    return TaskComparison(
        task=rows[0].task,
        metric_name=rows[0].metric_name,
        is_higher_better=is_higher_better,
        split=split,
        rows=rows,
        policies=tuple(policies),
        params_front=front([row.total_params for row in rows]),
        flops_front=front([row.total_flops for row in rows]),
    )


def _sum_up(policy: str, rows: Sequence[RunRow], split: Split) -> PolicyRow:
    metrics = [metric for metric in (row.metric_on(split) for row in rows) if metric is not None]
    return PolicyRow(
        policy=policy,
        seeds=tuple(row.seed for row in rows),
        metric=compute_spread(metrics),
        params=_spread_counts([row.total_params for row in rows]),
        flops=_spread_counts([row.total_flops for row in rows]),
        fossils=_spread_counts([row.num_fossils for row in rows]),
    )


def _spread_counts(values: Sequence[int]) -> Spread:
    spread = compute_spread(values)
    if spread is None:
        raise ValueError("a spread needs at least one number")
    return spread
