"""Rows of the studies and what is said of several: means, paired differences with intervals, medians.

A row is one line of a file under benchmarks/results. Knows no study and no table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

Row = Mapping[str, object]

KEY_FIELDS = (
    "stage",
    "arm",
    "schedule",
    "learning_rate",
    "training_seed",
    "seed",
    "germination",
    "epoch",
    "slot",
    "blueprint",
    "replicate",
)
"""What makes a row unique within its file; a study that lacks a field has it None in every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % t interval; the half width is None for a single value."""

    mean: float
    half_width: float | None

    def show(self) -> str:
        """Return "+0.0050 [+0.0020, +0.0080]"."""
        if self.half_width is None:
            return f"{self.mean:+.4f} (one seed)"
        return f"{self.mean:+.4f} [{self.mean - self.half_width:+.4f}, {self.mean + self.half_width:+.4f}]"


def estimate_interval(differences: Sequence[float]) -> Interval:
    """Return mean and half width t(0.975, n - 1) s / sqrt(n) of n >= 1 paired differences."""
    count = len(differences)
    mean = statistics.fmean(differences)
    if count < 2:
        return Interval(mean=mean, half_width=None)
    quantile = float(stats.t.ppf(0.975, count - 1))
    return Interval(mean=mean, half_width=quantile * statistics.stdev(differences) / count**0.5)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file.

    Raises:
        ValueError: If a key stands twice, or rows follow two protocols.
    """
    rows: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    check_rows(rows, str(path))
    return rows


def check_rows(rows: Sequence[Row], where: str) -> None:
    """Refuse rows that must not stand in one table.

    Args:
        rows: All of it.
        where: What the error names.

    Raises:
        ValueError: If a key stands twice, or rows follow two protocols.
    """
    keys = [tuple(row.get(field) for field in KEY_FIELDS) for row in rows]
    doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
    if doubled:
        raise ValueError(f"{where}: rows with the same {', '.join(KEY_FIELDS)}: {', '.join(doubled)}")
    protocols = {str(row["protocol_hash"]) for row in rows}
    if len(protocols) > 1:
        raise ValueError(f"{where}: rows of different settings: protocols {', '.join(sorted(protocols))}")


def number(row: Row, name: str) -> float:
    """Return a numeric field.

    Raises:
        ValueError: If it is no number.
    """
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        arm = row.get("arm", row.get("schedule"))
        raise ValueError(f"row of arm {arm}, seed {row['seed']}: {name} = {value!r} is not a number")
    return float(value)


def count(row: Row, name: str) -> int:
    """Return the length of a field that is a list."""
    value = row[name]
    assert isinstance(value, list)
    return len(value)


def by_seed(rows: Sequence[Row], arm: str) -> dict[int, Row]:
    """Return an arm's rows by seed."""
    return {int(number(row, "seed")): row for row in rows if row["arm"] == arm}


def mean_of(rows: Mapping[int, Row], field: str) -> float:
    """Return the mean of a field over an arm's rows."""
    return statistics.fmean(number(row, field) for row in rows.values())


def show_difference(rows: Mapping[int, Row], base: Mapping[int, Row], field: str) -> str:
    """Return the mean paired difference of a field over the seeds that both arms have."""
    seeds = sorted(set(rows) & set(base))
    if not seeds or rows is base:
        return "-"
    differences = [number(rows[seed], field) - number(base[seed], field) for seed in seeds]
    return estimate_interval(differences).show()


def show_median_seconds(rows: Mapping[int, Row]) -> str:
    """Return the median wall clock of an arm's runs in seconds."""
    return f"{statistics.median(number(row, 'seconds') for row in rows.values()):.1f}"


def show_gflops(rows: Mapping[int, Row]) -> str:
    """Return the mean of an arm's FLOPs in units of 1e9."""
    return f"{mean_of(rows, 'flops_total') / 1e9:.2f}"


def show_table(lines: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table; the first line's keys are the heads."""
    heads = list(lines[0])
    text = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    text += ["| " + " | ".join(line.values()) + " |" for line in lines]
    return "\n".join(text) + "\n"
