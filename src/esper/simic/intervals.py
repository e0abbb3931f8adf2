"""How sure a mean over paired runs is: one rule for every table and every command.

Below 20 pairs a t interval (differences of means of paired runs are close to normal); from 20 pairs on a
bias-corrected and accelerated bootstrap (BCa, Efron 1987), which asks for no shape but for some data.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from esper.leyline import JsonValue

BOOTSTRAP_FROM = 20
"""Pairs from which on the bootstrap is used."""
NUM_RESAMPLES = 10_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PairedInterval:
    """A mean difference and the interval that holds it with the stated confidence.

    Example:
        PairedInterval(mean=0.01, low=0.004, high=0.016, num_pairs=10, method="t")
    """

    mean: float
    low: float | None
    """None where one pair allows no interval."""
    high: float | None
    num_pairs: int
    method: str
    """"t", "bca" or "none"."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "num_pairs": self.num_pairs,
            "method": self.method,
        }


def estimate_paired_interval(differences: Sequence[float], confidence: float = 0.95) -> PairedInterval:
    """Return the interval of the mean of n >= 1 paired differences.

    Args:
        differences: One per pair, in any unit.
        confidence: In (0, 1).

    Raises:
        ValueError: If there is no difference.

    Example:
        >>> interval = estimate_paired_interval([0.01, 0.02, 0.03])
        >>> round(interval.mean, 3), round(interval.low, 3), round(interval.high, 3)
        (0.02, -0.005, 0.045)
    """
    count = len(differences)
    if count == 0:
        raise ValueError("no pairs: an interval needs at least one difference")
    from scipy import stats  # noqa: PLC0415 - a third of the start of every command that trains

    mean = statistics.fmean(differences)
    if count == 1:
        return PairedInterval(mean=mean, low=None, high=None, num_pairs=1, method="none")
    if count < BOOTSTRAP_FROM:
        quantile = float(stats.t.ppf(0.5 + confidence / 2, count - 1))
        half = quantile * statistics.stdev(differences) / count**0.5
        return PairedInterval(mean=mean, low=mean - half, high=mean + half, num_pairs=count, method="t")
    if len(set(differences)) == 1:  # nothing to resample
        return PairedInterval(mean=mean, low=mean, high=mean, num_pairs=count, method="bca")
    found = stats.bootstrap(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        confidence_level=confidence,
        n_resamples=NUM_RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return PairedInterval(
        mean=mean, low=float(found.low), high=float(found.high), num_pairs=count, method="bca"
    )
