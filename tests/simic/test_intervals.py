"""Intervals of paired differences: by hand below twenty pairs, by coverage from there on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from esper.simic.intervals import estimate_paired_interval


def test_few_pairs_get_the_t_interval_of_the_textbook() -> None:
    differences = [0.01, 0.03, 0.02, 0.04]
    interval = estimate_paired_interval(differences)
    # mean .025, sample deviation .012910, t(.975, 3) = 3.182446, half width .020542
    assert interval.method == "t"
    assert interval.mean == pytest.approx(0.025)
    assert interval.low == pytest.approx(0.004458, abs=1e-6)
    assert interval.high == pytest.approx(0.045542, abs=1e-6)


def test_one_pair_has_a_mean_and_no_interval() -> None:
    interval = estimate_paired_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.method) == (0.5, None, None, "none")


def test_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        estimate_paired_interval([])


def test_equal_differences_have_an_interval_of_no_width() -> None:
    interval = estimate_paired_interval([0.25] * 30)
    assert (interval.low, interval.high, interval.method) == (0.25, 0.25, "bca")


def test_the_same_pairs_give_the_same_interval_again() -> None:
    differences = np.random.default_rng(3).normal(size=25).tolist()
    assert estimate_paired_interval(differences) == estimate_paired_interval(differences)


def test_many_pairs_of_a_normal_give_nearly_the_t_interval() -> None:
    differences = np.random.default_rng(1).normal(0.1, 1.0, size=200)
    interval = estimate_paired_interval(differences.tolist())
    wanted = stats.t.interval(0.95, 199, differences.mean(), differences.std(ddof=1) / 200**0.5)
    assert interval.low == pytest.approx(wanted[0], abs=0.02)
    assert interval.high == pytest.approx(wanted[1], abs=0.02)


@pytest.mark.slow
def test_bootstrap_intervals_of_a_skewed_law_hold_the_mean_nearly_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        interval = estimate_paired_interval(rng.exponential(1.0, size=40).tolist())
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 1.0 <= interval.high
    assert hits >= 180  # 95 in 100 asked for; three standard errors and the known shortfall below
