"""Learning rates against their closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.schedules import compute_decay, compute_newborn_factor, compute_newborn_warmup

totals = st.integers(1, 5000)
warmups = st.floats(0.0, 0.9)
finals = st.floats(0.001, 1.0)


def test_warm_up_is_linear_and_the_cosine_ends_at_the_final_fraction() -> None:
    rates = [compute_decay(batch, 21, warmup_fraction=0.2, final_fraction=0.01) for batch in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.505)
    assert rates[20] == pytest.approx(0.01)


@given(total=totals, warmup=warmups, final=finals)
def test_the_decay_stays_in_range_rises_once_and_falls_once(total: int, warmup: float, final: float) -> None:
    rates = [
        compute_decay(batch, total, warmup_fraction=warmup, final_fraction=final)
        for batch in range(0, total, max(1, total // 50))
    ]
    assert all(0.0 < rate <= 1.0 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[peak:]))


@given(total=st.integers(2, 5000), warmup=warmups, final=finals, past=st.integers(0, 100))
def test_the_final_fraction_holds_past_the_end(total: int, warmup: float, final: float, past: int) -> None:
    rate = compute_decay(total + past, total, warmup_fraction=warmup, final_fraction=final)
    assert rate == pytest.approx(final)


def test_without_warm_up_the_first_batch_has_the_peak() -> None:
    assert compute_decay(0, 10, warmup_fraction=0.0, final_fraction=0.01) == 1.0


def test_a_run_of_one_batch_has_a_rate() -> None:
    assert compute_decay(0, 1, warmup_fraction=0.05, final_fraction=0.01) == 1.0


def test_a_newborn_warms_up_linearly_from_its_birth() -> None:
    assert [compute_newborn_factor(age, 3) for age in range(-1, 5)] == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("warmup", [0, -1])
def test_without_newborn_warm_up_the_factor_is_one(warmup: int) -> None:
    assert compute_newborn_factor(0, warmup) == 1.0


@given(age=st.integers(-10, 10_000), warmup=st.integers(0, 500))
def test_the_newborn_factor_is_monotone_and_at_most_one(age: int, warmup: int) -> None:
    now, later = compute_newborn_factor(age, warmup), compute_newborn_factor(age + 1, warmup)
    assert 0.0 < now <= later <= 1.0


@pytest.mark.parametrize(("per_epoch", "expected"), [(17, 17), (200, 200), (391, 200)])
def test_newborn_warm_up_lasts_an_epoch_but_at_most_200_batches(per_epoch: int, expected: int) -> None:
    assert compute_newborn_warmup(per_epoch) == expected
