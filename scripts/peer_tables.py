"""The tables of docs/results.md on growth against its peers, from the rows of benchmarks/peer_study.py.

```
tuning   every arm at every rate, seeds of 1000 and more, validation
results  every arm at its rate, seeds 0 to 9, test split; differences paired by seed with 95 % t intervals
```
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from peer_rows import (
    Runs,
    compute_anytime,
    compute_reach,
    find_target,
    is_sound,
    mean_sound,
    read_budget,
    read_curve,
)
from study_rows import Row, by_seed, mean_of, number, show_difference, show_table

ARMS = (
    "small_flops",
    "big_flops",
    "static_final_flops",
    "periodic_random",
    "round_robin",
    "greedy",
    "heuristic",
    "width_random",
    "width_random_kept",
    "width_tiny",
    "width_tiny_kept",
    "small",
    "big",
    "static_final",
)
"""In the order of the table: those within the budget first."""
CLAIM_SEEDS = 10
_VALIDATION = "validation_accuracy"


def peer_tables(task: str, rows: Sequence[Row]) -> str:
    """Return the tables that there are rows for, and the picture's place."""
    tuning = [row for row in rows if row["stage"] == "tune"]
    published = [row for row in rows if row["stage"] == "publish"]
    parts = [tuning_table(task, tuning)] if tuning else []
    if published:
        parts += [results_table(task, published), f"![{task}: accuracy against FLOPs](peer_{task}.svg)\n"]
    return "\n".join(parts) or f"{task}: no rows of tuning or results yet.\n"


def tuning_table(task: str, rows: Sequence[Row]) -> str:
    """Return mean validation accuracies by arm and rate, the best in bold, the smaller rate of equals."""
    rates = sorted({number(row, "learning_rate") for row in rows})
    seeds = sorted({int(number(row, "seed")) for row in rows})
    lines = []
    for arm in ARMS:
        of_rate = {
            rate: by_seed([row for row in rows if number(row, "learning_rate") == rate], arm)
            for rate in rates
        }
        means = {rate: mean_of(found, _VALIDATION) for rate, found in of_rate.items() if found}
        if not means:
            continue
        best = max(means, key=lambda rate: (means[rate], -rate))
        cells = {rate: f"{mean:.4f} ({len(of_rate[rate])})" for rate, mean in means.items()}
        cells[best] = f"**{cells[best]}**"
        lines.append({"arm": arm} | {f"rate {rate:g}": cells.get(rate, "-") for rate in rates})
    title = (
        f"**{task}**, choice of the learning rate: mean validation accuracy (runs), seeds "
        f"{seeds[0]} to {seeds[-1]}"
    )
    return f"{title}\n\n{show_table(lines)}"


def results_table(task: str, rows: Sequence[Row]) -> str:
    """Return one line per arm.

    Raises:
        ValueError: If an arm has rows of several rates, or rows were run within several budgets.
    """
    arms = {arm: found for arm in ARMS if (found := by_seed(rows, arm))}
    for arm in arms:
        rates = {number(row, "learning_rate") for row in rows if row["arm"] == arm}
        if len(rates) > 1:
            raise ValueError(f"{task}, arm {arm}: published at the rates {sorted(rates)}; expected one")
    budget = read_budget(rows)
    target = find_target(arms)
    is_claim = all(len(arms.get(arm, {})) >= CLAIM_SEEDS for arm in ARMS)
    title = f"**{task}**, test split{'' if is_claim else ' (smoke)'}; budget {budget / 1e9:.3f} GFLOP"
    if target is not None:
        title += f"; target {target[1]:.4f} validation accuracy, that of {target[0]}"
    lines = [
        {"arm": arm} | _cells(found, arms, budget) | _reach_cells(found, arms, target)
        for arm, found in arms.items()
    ]
    return f"{title}\n\n{show_table(lines)}"


def _cells(runs: Runs, arms: Mapping[str, Runs], budget: float) -> dict[str, str]:
    rate = number(next(iter(runs.values())), "learning_rate")
    jumps = [number(row, "loss_jump") for row in runs.values() if row["loss_jump"] is not None]
    anytime = statistics.fmean(compute_anytime(read_curve(row), budget) for row in runs.values())
    grown, refused = mean_of(runs, "num_grown"), mean_of(runs, "num_refused")
    return {
        "rate": f"{rate:g}",
        "seeds": str(len(runs)),
        "epochs": f"{mean_of(runs, 'epochs'):.1f}",
        "FLOPs / budget": _show(mean_sound(runs, "flops_total") / budget, ".3f"),
        "test accuracy": f"{mean_of(runs, 'test_accuracy'):.4f}",
        "against big_flops, paired": show_difference(runs, arms.get("big_flops", {}), "test_accuracy"),
        "against heuristic, paired": show_difference(runs, arms.get("heuristic", {}), "test_accuracy"),
        "anytime": f"{anytime:.4f}",
        "parameters at the end": _show(mean_sound(runs, "params_final"), ".0f"),
        "at the peak": _show(mean_sound(runs, "params_peak"), ".0f"),
        "largest loss jump": _show(max(jumps, default=math.nan), ".3f"),
        "growths / refused": f"{grown:.1f} / {refused:.1f}",
        "growth seconds": f"{statistics.median(number(row, 'growth_seconds') for row in runs.values()):.1f}",
        "CPU seconds": f"{statistics.median(number(row, 'cpu_seconds') for row in runs.values()):.1f}",
        "failed": str(sum(not is_sound(row) for row in runs.values())),
    }


def _reach_cells(runs: Runs, arms: Mapping[str, Runs], target: tuple[str, float] | None) -> dict[str, str]:
    """Return the median FLOPs to the target over the mean bill of the arm that set it, and who got there."""
    if target is None:
        return {"FLOPs to target": "-"}
    name, accuracy = target
    found = [compute_reach(read_curve(row), accuracy) for row in runs.values()]
    ratio = statistics.median(found) / mean_sound(arms[name], "flops_total")
    reached = sum(math.isfinite(flops) for flops in found)
    shown = f"{ratio:.2f}x" if math.isfinite(ratio) else "-"
    return {"FLOPs to target": f"{shown} ({reached} of {len(found)})"}


def _show(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
