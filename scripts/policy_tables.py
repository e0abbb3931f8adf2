"""What learned policies come to, and how they came to it: two tables of docs/results.md.

```
policy   rows of benchmarks/policy_study.py   every policy on the same hosts; differences paired by host
curve    rows of scripts/learning_curves.py   one line per training seed: first and last rounds
```
A trained arm has several training seeds: its value on a host is the mean over them, so that hosts are what
the interval is over; each training seed stands below with an interval of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from study_rows import Row, estimate_interval, number, show_table

RULE_ARMS = ("never", "random", "schedule", "greedy", "heuristic")
"""In the order of the table; trained arms follow by name."""
BASES = ("never", "random", "heuristic")
"""What every policy is compared with."""
CLAIM_HOSTS = 20
WINDOW = 5
"""Rounds at either end of a training that are averaged."""
MEASURES: Mapping[str, str] = MappingProxyType({"test_metric": "test accuracy", "objective": "objective J"})


def policy_table(task: str, rows: Sequence[Row]) -> str:
    """Return every policy with its differences to each of `BASES`, paired by host."""
    arms = _by_arm(rows)
    means = {arm: _mean_over_trainings(found) for arm, found in arms.items()}
    lines = []
    for arm in _ordered(arms):
        lines.append({"policy": arm} | _cells(arms[arm], means[arm], means))
        seeds = sorted({int(number(r, "training_seed")) for r in arms[arm] if r["training_seed"] is not None})
        for seed in seeds if len(seeds) > 1 else ():
            own = [row for row in arms[arm] if row["training_seed"] == seed]
            lines.append(
                {"policy": f"- training seed {seed}"} | _cells(own, _mean_over_trainings(own), means)
            )
    hosts = min(len(found) for found in means.values())
    widths = sorted({int(number(row, "base_channels")) for row in rows})
    note = "" if hosts >= CLAIM_HOSTS else " (smoke)"
    title = (
        f"**{task}**, {hosts} fresh hosts with {', '.join(map(str, widths))} base channels and "
        f"{_show_blocks(rows)} blocks, test split; J on validation{note}"
    )
    between = _compare_trainings({arm: arms[arm] for arm in _ordered(arms) if arm not in RULE_ARMS})
    return f"{title}\n\n{show_table(lines)}" + (f"\n{show_table(between)}" if between else "")


def curve_table(task: str, rows: Sequence[Row]) -> str:
    """Return how each training began and ended."""
    lines = [_describe_training(row) for row in sorted(rows, key=lambda row: number(row, "seed"))]
    return f"**{task}**, means over the first and the last {WINDOW} rounds\n\n{show_table(lines)}"


# ---------------------------------------------------------------------- policies


def _by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(str(row["arm"]), []).append(row)
    return arms


def _ordered(arms: Mapping[str, Sequence[Row]]) -> list[str]:
    return [arm for arm in RULE_ARMS if arm in arms] + sorted(set(arms) - set(RULE_ARMS))


def _mean_over_trainings(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Return host -> measure -> mean over the training seeds."""
    hosts: dict[int, list[Row]] = {}
    for row in rows:
        hosts.setdefault(int(number(row, "seed")), []).append(row)
    return {
        seed: {measure: statistics.fmean(number(row, measure) for row in found) for measure in MEASURES}
        for seed, found in hosts.items()
    }


def _cells(
    rows: Sequence[Row],
    values: Mapping[int, Mapping[str, float]],
    means: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> dict[str, str]:
    cells = {}
    for measure, title in MEASURES.items():
        cells[title] = f"{statistics.fmean(value[measure] for value in values.values()):.4f}"
        for base in BASES:
            cells[f"{title} against {base}"] = _difference(values, means.get(base, {}), measure)
    spent = statistics.fmean(number(r, "flops_spent") / number(r, "never_grow_flops") for r in rows)
    size = statistics.fmean(1.0 + number(r, "added_params") / number(r, "host_params") for r in rows)
    kept = statistics.fmean(number(r, "num_fossils") for r in rows)
    grown = statistics.fmean(float(number(r, "num_fossils") > 0) for r in rows)
    return cells | {
        "FLOPs": f"{spent:.2f}x",
        "parameters": f"{size:.2f}x",
        "kept per host": f"{kept:.2f}",
        "hosts grown": f"{grown:.2f}",
        "failed": str(sum(row["failure"] is not None for row in rows)),
    }


def _difference(
    values: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]], measure: str
) -> str:
    seeds = sorted(set(values) & set(base))
    if not seeds or values == base:
        return "-"
    return estimate_interval([values[seed][measure] - base[seed][measure] for seed in seeds]).show()


def _compare_trainings(trained: Mapping[str, Sequence[Row]]) -> list[dict[str, str]]:
    """Return the differences of trained arms from each other, over the training seeds that both have."""
    lines = []
    for first, second in combinations(trained, 2):
        common = {row["training_seed"] for row in trained[first]} & {
            row["training_seed"] for row in trained[second]
        }
        one, other = (
            _mean_over_trainings([row for row in trained[arm] if row["training_seed"] in common])
            for arm in (first, second)
        )
        if common:
            cells = {title: _difference(other, one, measure) for measure, title in MEASURES.items()}
            seeds = ", ".join(sorted(map(str, common)))
            lines.append({"trained policy": second, "less": first, "training seeds": seeds} | cells)
    return lines


def _show_blocks(rows: Sequence[Row]) -> str:
    return ", ".join(map(str, sorted({int(number(row, "num_blocks")) for row in rows})))


# ---------------------------------------------------------------------- curves


def _describe_training(row: Row) -> dict[str, str]:
    rounds = row["rounds"]
    assert isinstance(rounds, list)
    first, last = rounds[:WINDOW], rounds[-WINDOW:]
    return {
        "training seed": str(row["seed"]),
        "rounds": str(len(rounds)),
        "env steps": f"{int(rounds[-1]['num_env_steps']):,}",
        "return": f"{_mean(first, 'return')} > {_mean(last, 'return')}",
        "gain in accuracy": f"{_mean(first, 'gain')} > {_mean(last, 'gain')}",
        "explained variance": _mean(last, "explained_variance"),
        "of a critic of time": _mean(last, "time_explained_variance"),
        "operation entropy, nats": f"{_mean(first, 'op_entropy')} > {_mean(last, 'op_entropy')}",
        "WAIT share": f"{_mean(first, 'wait_share')} > {_mean(last, 'wait_share')}",
        "hosts with a fossil": f"{_mean(first, 'fossilize_rate')} > {_mean(last, 'fossilize_rate')}",
    }


def _mean(rounds: Sequence[Mapping[str, object]], name: str) -> str:
    values = [float(str(item[name])) for item in rounds if item.get(name) is not None]
    return f"{statistics.fmean(values):.3f}" if values else "-"
