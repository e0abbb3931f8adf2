"""The tables of docs/performance.md on a host run against a bare loop, from rows of benchmarks/host_run.py.

```
ratio       CPU time of an epoch over that of the bare epoch beside it
per FLOP    ratio over the ratio of FLOPs; of `held` only epochs in which every slot has a live seed
share       FLOPs of calibration and counterfactuals over all FLOPs of the ledger of `grown`
```
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from performance_rows import Row, compute_spread, numbers, pair_ratios
from study_rows import number, show_table

WAYS = ("bare", "never", "held", "grown")
NEVER_TARGET = 1.10
GROWN_TARGET = 1.25
SHARE_TARGET = 0.15
TARGETED = "fashion_mnist"
"""Steps of other tasks are so short that they are all overhead: shown, without a target."""
Column = Mapping[str, list[float]]


def read_columns(row: Row) -> dict[str, Column]:
    """Return way -> what its epochs cost, by field.

    Raises:
        ValueError: If the row has none.
    """
    columns = row["columns"]
    if not isinstance(columns, Mapping):
        raise ValueError(f"row of task {row['task']}: columns is no object")
    return {
        way: {name: numbers(values) for name, values in column.items()} for way, column in columns.items()
    }


def compute_ratios(column: Column, bare: Column, field: str = "cpu") -> list[float]:
    """Return a way's time over that of the bare epoch beside it."""
    return pair_ratios(column[field], bare[field])


def compute_flop_ratios(column: Column, bare: Column, *, num_live: int = 0) -> list[float]:
    """Return time ratio over FLOP ratio, of epochs with so many live seeds at least."""
    ratios, flops = compute_ratios(column, bare), pair_ratios(column["flops"], bare["flops"])
    normalised = pair_ratios(ratios, flops)
    return [ratio for ratio, live in zip(normalised, column["num_live"], strict=True) if live >= num_live]


def build_ratios(rows: Sequence[Row]) -> str:
    """Return the ratios of every task beside their targets."""
    lines = []
    for row in rows:
        columns, slots = read_columns(row), int(number(row, "num_slots"))
        bare, never, held, grown = (columns[way] for way in WAYS)
        found: tuple[tuple[str, list[float], float | None], ...] = (
            ("never / bare, whole epoch", compute_ratios(never, bare), NEVER_TARGET),
            ("never / bare, training only", compute_ratios(never, bare, "train_cpu"), None),
            ("held / bare", compute_ratios(held, bare), None),
            (
                f"held / bare per FLOP, {slots} live seeds",
                compute_flop_ratios(held, bare, num_live=slots),
                GROWN_TARGET,
            ),
            ("grown / bare", compute_ratios(grown, bare), None),
            ("grown / bare per FLOP", compute_flop_ratios(grown, bare), GROWN_TARGET),
        )
        for name, ratios, target in found:
            spread = compute_spread(ratios)
            aimed = target if row["task"] == TARGETED else None
            lines.append(
                {
                    "task": str(row["task"]),
                    "ratio of CPU time": name,
                    "median [quartiles]": spread.show(3),
                    "epochs": str(len(ratios)),
                    "target": "-" if aimed is None else f"<= {aimed:.2f}",
                    "": "" if aimed is None else ("met" if spread.median <= aimed else "**missed**"),
                }
            )
    return show_table(lines)


def build_epochs(rows: Sequence[Row]) -> str:
    """Return what an epoch of every way takes."""
    lines = []
    for row in rows:
        columns = read_columns(row)
        for way, column in ((name, columns[name]) for name in WAYS):
            cpu, train = (statistics.median(column[name]) for name in ("cpu", "train_cpu"))
            rate = statistics.median(pair_ratios(column["flops"], column["cpu"]))
            lines.append(
                {
                    "task": str(row["task"]),
                    "way": way,
                    "CPU s per epoch": f"{cpu:.3f}",
                    "of that training": f"{train:.3f}",
                    "microseconds per batch": f"{train / number(row, 'batches_per_epoch') * 1e6:,.0f}",
                    "GFLOP/s": f"{rate / 1e9:.1f}",
                }
            )
    return show_table(lines)


def build_measuring(rows: Sequence[Row]) -> str:
    """Return where the FLOPs of the runs under the heuristic went."""
    lines = []
    for row in rows:
        flops = row["flops"]
        if not isinstance(flops, Mapping):
            raise ValueError(f"row of task {row['task']}: flops is no object")
        total = sum(float(value) for value in flops.values())
        share = (flops["calibration"] + flops["counterfactual"]) / total
        kinds = ", ".join(f"{kind} {value / total:.3f}" for kind, value in flops.items() if value)
        is_aimed = row["task"] == TARGETED
        lines.append(
            {
                "task": str(row["task"]),
                "shares of all FLOPs, way `grown`": kinds,
                "measuring": f"{share:.3f}",
                "target": f"<= {SHARE_TARGET}" if is_aimed else "-",
                "": ("met" if share <= SHARE_TARGET else "**missed**") if is_aimed else "",
            }
        )
    return show_table(lines)
