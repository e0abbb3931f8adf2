"""What is read out of the rows of the benchmark against peers: bills, reach, anytime accuracy.

```
target    the mean final validation accuracy of the better fixed size that trained for the task's epochs
reach     FLOPs at the first epoch at which the median of the last 3 validation accuracies is >= the target
anytime   mean validation accuracy over the budget: the area under the curve over FLOPs, 0 before it begins
```
A run that broke down reached nothing and has an empty curve: it counts in both, as the worst. Knows no table
and no picture.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from study_rows import Row, mean_of, number

FIXED_ARMS = ("small", "big")
"""The sizes that were fixed beforehand and trained for the task's epochs; the better one sets the target."""
REACH_WINDOW = 3
Runs = Mapping[int, Row]
"""Seed -> row, of one arm."""
Curve = Sequence[tuple[float, float]]
"""FLOPs so far and validation accuracy, after each epoch."""


def read_curve(row: Row) -> list[tuple[float, float]]:
    """Return a run's curve.

    Raises:
        ValueError: If it is malformed.
    """
    curve = row["curve"]
    if not isinstance(curve, list):
        raise ValueError(f"row of arm {row['arm']}, seed {row['seed']}: curve is no list")
    return [(float(flops), float(accuracy)) for flops, accuracy in curve]


def is_sound(row: Row) -> bool:
    """Whether a run came to its end."""
    return row["failure"] is None


def find_target(arms: Mapping[str, Runs]) -> tuple[str, float] | None:
    """Return the better fixed size and its mean final validation accuracy; None if neither was run."""
    means = {name: mean_of(arms[name], "validation_accuracy") for name in FIXED_ARMS if arms.get(name)}
    return max(means.items(), key=lambda pair: pair[1]) if means else None


def compute_reach(curve: Curve, target: float) -> float:
    """Return FLOPs to the target, infinity if it was not reached."""
    accuracies = [accuracy for _, accuracy in curve]
    for place in range(REACH_WINDOW - 1, len(curve)):
        if statistics.median(accuracies[place - REACH_WINDOW + 1 : place + 1]) >= target:
            return curve[place][0]
    return math.inf


def compute_anytime(curve: Curve, budget: float) -> float:
    """Return the mean accuracy over [0, budget] FLOPs; an accuracy holds until the next one is known."""
    area, accuracy, since = 0.0, 0.0, 0.0
    for flops, next_accuracy in curve:
        area += accuracy * (min(flops, budget) - min(since, budget))
        accuracy, since = next_accuracy, flops
    area += accuracy * max(0.0, budget - since)
    return area / budget


def read_budget(rows: Sequence[Row]) -> float:
    """Return the budget that all rows were run within.

    Raises:
        ValueError: If they were run within several.
    """
    budgets = {number(row, "budget_flops") for row in rows}
    if len(budgets) != 1:
        raise ValueError(f"rows of {len(budgets)} budgets, {sorted(budgets)}: one table has one")
    return budgets.pop()


def mean_sound(runs: Runs, field: str) -> float:
    """Return the mean of a field over the runs that came to their end; NaN if none did."""
    values = [number(row, field) for row in runs.values() if is_sound(row)]
    return statistics.fmean(values) if values else math.nan
