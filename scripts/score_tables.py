"""Do scores tell where and what to grow? The table of docs/results.md, from the rows of the score study.

Pairs of slot and blueprint are ranked within each host and epoch; the rank correlations of these groups are
averaged by host, with a bootstrap over hosts. The noise ceiling is what a perfect score would reach: from the
agreement of build seeds with each other by Spearman and Brown. A ranking by size alone stands beside it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

import numpy as np
from scipy import stats

from study_rows import Row, number, show_table

NUM_RESAMPLES = 10_000
PREDICTORS: Mapping[str, Callable[[Row], float]] = MappingProxyType(
    {
        "cross-validated share": lambda row: number(row, "share"),
        "share x gradient energy": lambda row: number(row, "share") * number(row, "energy"),
        "parameters of the seed": lambda row: number(row, "num_params"),
        "FLOPs of the seed": lambda row: number(row, "flops_per_item"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The pairs of one host and epoch that every build seed has a row of."""

    seed: int
    rows: tuple[Row, ...]
    """One per pair, for what is predicted."""
    gains: tuple[tuple[float, ...], ...]
    """[pairs][build seeds]; a failed run counts as the worst."""

    @property
    def mean_gains(self) -> list[float]:
        """Mean gain of each pair."""
        return [statistics.fmean(gains) for gains in self.gains]

    def correlate(self, predictor: Callable[[Row], float]) -> float:
        """Return the rank correlation with the mean gain; NaN where either is constant."""
        return correlate_ranks([predictor(row) for row in self.rows], self.mean_gains)

    def agreement(self) -> float:
        """Return the mean rank correlation of two build seeds; NaN where there is one."""
        columns = list(zip(*self.gains, strict=True))
        found = [correlate_ranks(left, right) for left, right in combinations(columns, 2)]
        return statistics.fmean(found) if found else math.nan


def score_table(task: str, rows: Sequence[Row]) -> str:
    """Return the Markdown of one task's rows."""
    groups = build_groups(rows)
    lines = [
        {"ranking by": name}
        | _cells(*average_over_hosts(groups, [group.correlate(predictor) for group in groups]))
        for name, predictor in PREDICTORS.items()
    ]
    agreement, low, high = average_over_hosts(groups, [group.agreement() for group in groups])
    lines.append({"ranking by": "another build seed"} | _cells(agreement, low, high))
    num_seeds = max(len(gains) for group in groups for gains in group.gains)
    single = max(0.0, agreement)
    pooled = num_seeds * single / (1.0 + (num_seeds - 1) * single)
    hosts = len({group.seed for group in groups})
    pairs = sum(len(group.rows) for group in groups)
    helped = statistics.fmean(statistics.fmean(gain > 0.0 for gain in group.mean_gains) for group in groups)
    ceiling = f"noise ceiling of the mean of {num_seeds} build seeds {pooled**0.5:.2f}"
    counts = f"{len(rows)} trials, {pairs} pairs in {len(groups)} groups of {hosts} hosts"
    title = f"**{task}**: {counts}; {ceiling}; {helped:.2f} of the pairs lowered the loss"
    return f"{title}\n\n{show_table(lines)}"


def build_groups(rows: Sequence[Row]) -> list[Group]:
    """Return the rows by host and epoch; pairs that lack a build seed of the group are left out."""
    by_group: dict[tuple[int, int], dict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = by_group[(int(number(row, "seed")), int(number(row, "epoch")))]
        group[(str(row["slot"]), str(row["blueprint"]))].append(row)
    groups = []
    for (seed, _), pairs in sorted(by_group.items()):
        count = max(len(of_pair) for of_pair in pairs.values())
        whole = [of_pair for of_pair in pairs.values() if len(of_pair) == count]
        found = [[_gain(row) for row in of_pair] for of_pair in whole]
        worst = min((gain for gains in found for gain in gains if gain is not None), default=0.0)
        table = tuple(tuple(worst if gain is None else gain for gain in gains) for gains in found)
        groups.append(Group(seed=seed, rows=tuple(of_pair[0] for of_pair in whole), gains=table))
    return groups


def correlate_ranks(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Spearman's rho; NaN where one side is constant or shorter than 3."""
    if len(left) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        return math.nan
    return float(stats.spearmanr(left, right).statistic)


def average_over_hosts(groups: Sequence[Group], values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over hosts of each host's mean, and the bounds of its 95 % bootstrap interval."""
    by_host: dict[int, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        if not math.isnan(value):
            by_host[group.seed].append(value)
    means = np.asarray([statistics.fmean(of_host) for of_host in by_host.values()], dtype=np.float64)
    if len(means) < 2:
        return (float(means[0]) if len(means) else math.nan), math.nan, math.nan
    draws = np.random.default_rng(0).choice(means, size=(NUM_RESAMPLES, len(means))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(means.mean()), float(low), float(high)


def _gain(row: Row) -> float | None:
    """Twin loss less grown loss; None where a run failed."""
    if row["twin_loss"] is None or row["grown_loss"] is None:
        return None
    return number(row, "twin_loss") - number(row, "grown_loss")


def _cells(mean: float, low: float, high: float) -> dict[str, str]:
    bounds = "(one host)" if math.isnan(low) else f"[{low:+.2f}, {high:+.2f}]"
    return {"Spearman rho with the realised gain, 95 % over hosts": f"{mean:+.2f} {bounds}"}
