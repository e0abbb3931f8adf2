"""Is there anything to learn? The table of docs/results.md from the rows of benchmarks/headroom_study.py.

```
J              = metric - scale * price * (log(1 + added / host) + FLOPs / FLOPs of never growing - 1)
best overall   = the schedule with the largest mean of J over hosts and lives
headroom       = mean over hosts of J of the best schedule there - J of the best overall there, by two lives
crossed        = the same, but a host's schedule is chosen by one life and judged on the other, both ways
```
The best of many noisy numbers is too good by itself, so headroom is an upper estimate and is never negative;
crossed has no such bias. Prices are put in afterwards: no schedule reads them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esper.runtime.tasks import task_spec
from study_rows import Row, number, show_table

PRICES = (0.05, 0.1, 0.2, 0.3)
"""Of parameters and of FLOPs alike, in metric scales as `RewardConfig.lambda_p` and `lambda_f`."""
NEVER = "never"
LIVES = (0, 1)
MIN_ERRORS = 2.0
"""Standard errors that the headroom must exceed."""
MIN_NEVER_SHARE = 0.2
"""Least share of hosts on which never growing must be best: else "always grow" is nearly all there is."""

Lives = Mapping[str, tuple[float, float]]
"""Schedule -> J of either life, of one host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What the schedules of a study come to at one price."""

    best: str
    """The best overall; of equals the one whose rows come first."""
    best_objective: float
    """Its mean J."""
    gains: tuple[float, ...]
    """Per host: J of the best schedule there less that of the best overall, >= 0."""
    crossed_gains: tuple[float, ...]
    """Per host: the same by the life that did not choose, mean of both ways."""
    num_never: int
    """Hosts on which never growing is best."""

    @property
    def is_learnable(self) -> bool:
        """Whether the headroom exceeds two standard errors and never growing is best often enough."""
        error = standard_error(self.gains)
        is_above = statistics.fmean(self.gains) > MIN_ERRORS * error  # false where the error is not known
        return is_above and self.num_never / len(self.gains) >= MIN_NEVER_SHARE


def headroom_table(task: str, rows: Sequence[Row]) -> str:
    """Return one line per price, and below it what was counted and left out."""
    hosts, num_left_out = split_hosts(rows)
    num_schedules = len({row["schedule"] for row in rows})
    left_out = f"; {num_left_out} more lack a schedule or a life and are left out" if num_left_out else ""
    counts = f"{len(hosts)} hosts, {num_schedules} schedules, two lives each, validation split{left_out}"
    num_failed = sum(row["failure"] is not None for host in hosts for row in host)
    counts += f"; {num_failed} lives ended early" if num_failed else ""
    if not hosts:
        return f"**{task}**: {counts}\n"
    lines = []
    for price in PRICES:
        found = measure_headroom([compute_lives(host, price) for host in hosts])
        lines.append({"price of parameters and FLOPs": f"{price:g}"} | _cells(found))
    return f"**{task}**: {counts}\n\n{show_table(lines)}"


def split_hosts(rows: Sequence[Row]) -> tuple[list[list[Row]], int]:
    """Return the rows of every host that has all schedules in both lives, and the number of other hosts."""
    wanted = {(str(row["schedule"]), life) for row in rows for life in LIVES}
    hosts: dict[int, list[Row]] = {}
    for row in rows:
        hosts.setdefault(int(number(row, "seed")), []).append(row)
    whole = [
        found
        for _, found in sorted(hosts.items())
        if {(str(row["schedule"]), int(number(row, "replicate"))) for row in found} == wanted
    ]
    return whole, len(hosts) - len(whole)


def compute_objective(row: Row, price: float) -> float:
    """Return J of a life, as `esper.simic.rewards.gain` defines it, both prices alike.

    Args:
        row: One life; its task gives the scale of the metric.
        price: Metric scales per unit of the logarithm of size, and per bill of never growing, >= 0.
    """
    size = math.log1p(number(row, "added_params") / number(row, "host_params"))
    compute = number(row, "flops_spent") / number(row, "never_grow_flops") - 1.0
    return number(row, "metric") - task_spec(str(row["task"])).metric.scale * price * (size + compute)


def compute_lives(host: Sequence[Row], price: float) -> Lives:
    """Return J of every schedule in both lives of a host, schedules in the order of the rows."""
    found: dict[str, dict[int, float]] = {}
    for row in host:
        lives = found.setdefault(str(row["schedule"]), {})
        lives[int(number(row, "replicate"))] = compute_objective(row, price)
    return {schedule: (lives[0], lives[1]) for schedule, lives in found.items()}


def measure_headroom(hosts: Sequence[Lives]) -> Headroom:
    """Return what choosing per host would win over the best schedule overall; hosts have equal schedules."""
    means = [{schedule: statistics.fmean(lives) for schedule, lives in host.items()} for host in hosts]
    overall = {schedule: statistics.fmean(host[schedule] for host in means) for schedule in means[0]}
    best = max(overall, key=lambda schedule: overall[schedule])
    return Headroom(
        best=best,
        best_objective=overall[best],
        gains=tuple(max(host.values()) - host[best] for host in means),
        crossed_gains=tuple(
            _judge_crossed(host) - mean[best] for host, mean in zip(hosts, means, strict=True)
        ),
        num_never=sum(max(host, key=lambda schedule: host[schedule]) == NEVER for host in means),
    )


def standard_error(values: Sequence[float]) -> float:
    """Return s / sqrt(n); NaN for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _judge_crossed(lives: Lives) -> float:
    """Return the mean over both ways of J in one life of the schedule that is best in the other."""
    by_first = max(lives, key=lambda schedule: lives[schedule][0])
    by_second = max(lives, key=lambda schedule: lives[schedule][1])
    return statistics.fmean((lives[by_first][1], lives[by_second][0]))


def _cells(found: Headroom) -> dict[str, str]:
    num_hosts = len(found.gains)
    return {
        "best overall": found.best,
        "its J": f"{found.best_objective:.4f}",
        "headroom (s.e.)": _show(found.gains),
        "crossed (s.e.)": _show(found.crossed_gains),
        "never growing best": f"{found.num_never} of {num_hosts} ({found.num_never / num_hosts:.2f})",
        f"headroom > {MIN_ERRORS:g} s.e. and never best on >= {MIN_NEVER_SHARE:.0%} of hosts": (
            "yes" if found.is_learnable else "no"
        ),
    }


def _show(gains: Sequence[float]) -> str:
    error = standard_error(gains)
    return f"{statistics.fmean(gains):+.4f} ({'one host' if math.isnan(error) else f'{error:.4f}'})"
