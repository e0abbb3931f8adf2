"""The tables of docs/results.md, one function per study, from rows to Markdown.

```
curve       see policy_tables
growth      tuning seeds: every arm at every rate, validation  ->  the rate of each arm
            seeds 0 to 9: every arm at its rate, test, differences to never paired by seed
headroom    tuning seeds: see headroom_tables
incubation  tuning seeds, validation, differences to the first objective
peer        see peer_tables
policy      see policy_tables
score       tuning seeds: see score_tables
twin        seeds 0 to 9: contribution against gain over the twin, one pair per germination
```
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from scipy import stats

from headroom_tables import headroom_table
from peer_tables import peer_tables
from policy_tables import curve_table, policy_table
from score_tables import score_table
from study_rows import (
    Row,
    by_seed,
    count,
    estimate_interval,
    mean_of,
    number,
    show_difference,
    show_gflops,
    show_median_seconds,
    show_table,
)

CLAIM_SEEDS = 10
CLAIM_GERMINATIONS = 20
FIRST_TUNING_SEED = 1000
GROWTH_ARMS: tuple[str, ...] = (
    "never",
    "heuristic",
    "random",
    "static_final_epochs",
    "static_final_flops",
    "never_flops",
)
CLAIM_ARMS = frozenset(GROWTH_ARMS) - {"never_flops"}
"""What a table needs, on ten seeds each, so as not to be called a smoke table."""
FOLLOWED: Mapping[str, str] = MappingProxyType(
    {
        "random": "heuristic",
        "static_final_epochs": "heuristic",
        "static_final_flops": "heuristic",
        "never_flops": "never",
    }
)
"""Whose learning rate an arm takes that was not tuned itself."""
INCUBATION_ARMS: tuple[str, ...] = ("shadow", "residual", "straight_through")


def build_table(name: str, rows: Sequence[Row]) -> str:
    """Return the Markdown of one rows file.

    Raises:
        ValueError: If the name tells of no known study.
    """
    study, _, task = name.partition("_")
    builders = {
        "curve": curve_table,
        "growth": growth_tables,
        "headroom": headroom_table,
        "incubation": incubation_table,
        "peer": peer_tables,
        "policy": policy_table,
        "score": score_table,
        "twin": twin_table,
    }
    if study not in builders:
        raise ValueError(f"table {name!r}: the name must begin with one of {', '.join(builders)}")
    return builders[study](task, rows) if rows else f"{task}: no rows yet.\n"


# ---------------------------------------------------------------------- growth


def growth_tables(task: str, rows: Sequence[Row]) -> str:
    """Return the table of tuning, if there are rows for it, and the table of results."""
    tuning = [row for row in rows if number(row, "seed") >= FIRST_TUNING_SEED]
    published = [row for row in rows if number(row, "seed") < CLAIM_SEEDS]
    parts = [tuning_table(task, tuning)] if tuning else []
    if published:
        parts.append(growth_table(task, published, choose_rates(tuning)))
    return "\n".join(parts)


def choose_rates(tuning: Sequence[Row]) -> dict[str, float]:
    """Return for each arm the rate with the best mean validation accuracy on the tuning seeds."""
    rates: dict[str, float] = {}
    for arm in GROWTH_ARMS:
        of_arm = [row for row in tuning if row["arm"] == arm]
        means = {
            rate: mean_of(
                by_seed([r for r in of_arm if number(r, "learning_rate") == rate], arm), _VALIDATION
            )
            for rate in {number(row, "learning_rate") for row in of_arm}
        }
        if means:
            rates[arm] = max(means, key=lambda rate: (means[rate], -rate))
    return rates


_VALIDATION = "validation_accuracy"


def tuning_table(task: str, rows: Sequence[Row]) -> str:
    """Return validation accuracies by arm and rate; the chosen one in bold."""
    chosen = choose_rates(rows)
    rates = sorted({number(row, "learning_rate") for row in rows})
    seeds = sorted({int(number(row, "seed")) for row in rows})
    lines = []
    for arm in GROWTH_ARMS:
        if arm not in chosen:
            continue
        line = {"arm": arm}
        for rate in rates:
            found = by_seed([row for row in rows if number(row, "learning_rate") == rate], arm)
            cell = f"{mean_of(found, _VALIDATION):.4f} ({len(found)})" if found else "-"
            line[f"rate {rate:g}"] = f"**{cell}**" if rate == chosen[arm] else cell
        lines.append(line)
    title = (
        f"**{task}**, choice of the learning rate: mean validation accuracy (runs), seeds "
        f"{seeds[0]} to {seeds[-1]}"
    )
    return f"{title}\n\n{show_table(lines)}"


def growth_table(task: str, rows: Sequence[Row], rates: Mapping[str, float]) -> str:
    """Return every arm at its rate, or at that of the arm it follows.

    Raises:
        ValueError: If neither was tuned and there are rows of several rates.
    """
    of_arm: dict[str, dict[int, Row]] = {}
    used_rates: dict[str, float] = {}
    for arm in GROWTH_ARMS:
        present = {number(row, "learning_rate") for row in rows if row["arm"] == arm}
        if not present:
            continue
        rate = rates.get(arm, rates.get(FOLLOWED.get(arm, "")))
        if rate is None and len(present) > 1:
            raise ValueError(f"{task}, arm {arm}: rows of rates {sorted(present)} and none of tuning seeds")
        rate = min(present) if rate is None else rate
        found = by_seed([row for row in rows if number(row, "learning_rate") == rate], arm)
        if found:
            of_arm[arm], used_rates[arm] = found, rate
    never, grown = of_arm.get("never", {}), of_arm.get("heuristic", {})
    lines = [
        {"arm": arm, "rate": f"{used_rates[arm]:g}"} | growth_cells(found, never, grown)
        for arm, found in of_arm.items()
    ]
    is_claim = all(len(of_arm.get(arm, {})) >= CLAIM_SEEDS for arm in CLAIM_ARMS)
    return f"**{task}**, test split{'' if is_claim else ' (smoke)'}\n\n{show_table(lines)}"


def growth_cells(
    rows: Mapping[int, Row], never: Mapping[int, Row], grown: Mapping[int, Row]
) -> dict[str, str]:
    """Return the cells of one arm of a growth table; the other two are what it is compared with."""
    kept = statistics.fmean(count(row, "fossils") for row in rows.values())
    births, culls = mean_of(rows, "num_germinated"), mean_of(rows, "num_culled")
    return {
        "seeds": str(len(rows)),
        "test accuracy": f"{mean_of(rows, 'test_accuracy'):.4f}",
        "against never, paired": show_difference(rows, never, "test_accuracy"),
        "against heuristic, paired": show_difference(rows, grown, "test_accuracy"),
        "test loss": f"{mean_of(rows, 'test_loss'):.4f}",
        "parameters": f"{mean_of(rows, 'params_total'):.0f}",
        "GFLOP": show_gflops(rows),
        "epochs": f"{mean_of(rows, 'epochs'):.1f}",
        "seconds": show_median_seconds(rows),
        "germinated / culled / kept": f"{births:.1f} / {culls:.1f} / {kept:.1f}",
        "failed": str(sum(row["failure"] is not None for row in rows.values())),
    }


# ---------------------------------------------------------------------- incubation


def incubation_table(task: str, rows: Sequence[Row]) -> str:
    """Return every objective; the first is the base of the differences."""
    used = [row for row in rows if number(row, "seed") >= FIRST_TUNING_SEED]
    of_arm = {arm: found for arm in INCUBATION_ARMS if (found := by_seed(used, arm))}
    base = of_arm.get(INCUBATION_ARMS[0], {})
    lines = [{"arm": arm} | incubation_cells(found, base) for arm, found in of_arm.items()]
    return f"**{task}**, tuning seeds, validation split\n\n{show_table(lines)}"


def incubation_cells(rows: Mapping[int, Row], base: Mapping[int, Row]) -> dict[str, str]:
    """Return the cells of one objective of an incubation table."""
    return {
        "seeds": str(len(rows)),
        "accuracy": f"{mean_of(rows, _VALIDATION):.4f}",
        "accuracy against shadow, paired": show_difference(rows, base, _VALIDATION),
        "loss": f"{mean_of(rows, 'validation_loss'):.4f}",
        "loss against shadow, paired": show_difference(rows, base, "validation_loss"),
        "loss rise, first alpha: mean": f"{statistics.fmean(blends(rows, 'loss_rise_first_alpha')):+.1e}",
        "worst": f"{max(blends(rows, 'loss_rise_first_alpha')):+.1e}",
        "loss rise, full alpha: mean": f"{statistics.fmean(blends(rows, 'loss_rise_full_alpha')):+.4f}",
        "worst ": f"{max(blends(rows, 'loss_rise_full_alpha')):+.4f}",
        "GFLOP": show_gflops(rows),
        "seconds": show_median_seconds(rows),
        "failed": str(sum(row["failure"] is not None for row in rows.values())),
    }


def blends(rows: Mapping[int, Row], field: str) -> list[float]:
    """Return a field of every blend of every row, in nats."""
    values: list[float] = []
    for row in rows.values():
        found = row["blends"]
        assert isinstance(found, list)
        values += [float(blend[field]) for blend in found if blend[field] is not None]
    return values


# ---------------------------------------------------------------------- twin


def twin_table(task: str, rows: Sequence[Row]) -> str:
    """Return bias and correlation of contributions against gains over twins."""
    used = [row for row in rows if number(row, "seed") < CLAIM_SEEDS]
    seeds = {number(row, "seed") for row in used}
    lines = []
    for label, field, kept_only in (
        ("when decided, all seeds", "contribution", False),
        ("when decided, kept seeds", "contribution", True),
        ("in the finished network, kept seeds", "final_contribution", True),
    ):
        chosen = [row for row in used if row[field] is not None and (row["is_kept"] or not kept_only)]
        if len(chosen) > 2:
            lines.append({"contribution measured": label} | twin_cells(chosen, field))
    if not lines:
        return f"{task}: too few rows yet.\n"
    ratio = statistics.fmean(number(row, "twin_flops") / number(row, "flops_total") for row in used)
    smoke = "" if len(used) >= CLAIM_GERMINATIONS else " (smoke)"
    title = (
        f"**{task}**{smoke}: {len(used)} germinations in {len(seeds)} runs; contribution and gain in test "
        f"{used[0]['gate_metric']}, twins at {ratio:.3f} of the FLOPs on average"
    )
    return f"{title}\n\n{show_table(lines)}"


def twin_cells(rows: Sequence[Row], field: str) -> dict[str, str]:
    """Return the cells of one way to measure a contribution."""
    contributions = [number(row, field) for row in rows]
    gains = [gain_over_twin(row) for row in rows]
    bias = estimate_interval([c - g for c, g in zip(contributions, gains, strict=True)])
    pearson = stats.pearsonr(contributions, gains)
    low, high = pearson.confidence_interval(0.95) if len(rows) > 3 else (float("nan"), float("nan"))
    return {
        "pairs": str(len(rows)),
        "mean contribution": f"{statistics.fmean(contributions):+.4f}",
        "mean gain over the twin": estimate_interval(gains).show(),
        "bias (contribution - gain)": bias.show(),
        "Pearson r": f"{float(pearson.statistic):+.2f} [{float(low):+.2f}, {float(high):+.2f}]",
        "Spearman rho": f"{float(stats.spearmanr(contributions, gains).statistic):+.2f}",
    }


def gain_over_twin(row: Row) -> float:
    """Return the grown network's test result minus its twin's, in the gate's metric, higher is better."""
    if row["gate_metric"] == "loss":
        return number(row, "twin_test_loss") - number(row, "test_loss")
    return number(row, "test_accuracy") - number(row, "twin_test_accuracy")
