"""Rows of times, and what is said of several: a median between quartiles. Knows no benchmark and no table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study_rows import Row

__all__ = ["Row", "Spread", "compute_spread", "numbers", "pair_ratios", "read_plain_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median and its quartiles.

    Example:
        Spread(low=1.05, median=1.10, high=1.15)
    """

    low: float
    median: float
    high: float

    def show(self, digits: int = 2) -> str:
        """Return "1.10 [1.05, 1.15]"."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def read_plain_rows(path: Path) -> list[Row]:
    """Return the rows of a file, one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(values: object) -> list[float]:
    """Return a field that is a list of numbers.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float) for v in values
    ):
        raise ValueError(f"expected a list of numbers, found {values!r}")
    return [float(value) for value in values]


def pair_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratios of what stands side by side.

    Raises:
        ValueError: If one side is longer.
    """
    return [over / under for over, under in zip(above, below, strict=True)]


def compute_spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(low=values[0], median=values[0], high=values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low=low, median=middle, high=high)
