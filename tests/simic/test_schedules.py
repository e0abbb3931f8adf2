"""Schedules are functions of the update alone."""

from __future__ import annotations

import math

import pytest

from esper.simic.config import EntropyConfig, HeadNumbers, ScheduleConfig
from esper.simic.schedules import compute_entropy_coefs, compute_floor_coef, compute_learning_rate

PEAK, UPDATES = 3e-4, 100


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [PEAK / 6, PEAK * 5 / 6, PEAK, PEAK * 45 / 95, PEAK * 1 / 95]),
        ("constant", [PEAK / 6, PEAK * 5 / 6, PEAK, PEAK, PEAK]),
        (
            "cosine",
            [
                PEAK / 6,
                PEAK * 5 / 6,
                PEAK,
                PEAK * (1 + math.cos(math.pi * 50 / 95)) / 2,
                PEAK * (1 + math.cos(math.pi * 94 / 95)) / 2,
            ],
        ),
    ],
)
def test_a37_learning_rate_has_its_closed_form_at_five_updates(kind: str, expected: list[float]) -> None:
    config = ScheduleConfig(kind=kind)
    rates = [compute_learning_rate(u, UPDATES, PEAK, config) for u in (0, 4, 5, 55, 99)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a37_any_update_can_be_asked_for_first_and_the_end_holds() -> None:
    config = ScheduleConfig(final_fraction=0.1)
    assert compute_learning_rate(100, UPDATES, PEAK, config) == pytest.approx(0.1 * PEAK)
    assert compute_learning_rate(5000, UPDATES, PEAK, config) == pytest.approx(0.1 * PEAK)


@pytest.mark.parametrize("num_updates", [1, 2, 3])
def test_the_shortest_runs_learn_at_a_positive_rate(num_updates: int) -> None:
    rates = [compute_learning_rate(u, num_updates, PEAK, ScheduleConfig()) for u in range(num_updates)]
    assert all(0 < rate <= PEAK for rate in rates)


def test_bug20_entropy_is_annealed_per_update_in_closed_form_at_five_updates() -> None:
    config = EntropyConfig(head_starts=HeadNumbers(slot=0.2), head_ends=HeadNumbers(slot=0.0))
    tables = [compute_entropy_coefs(u, UPDATES, ("op", "slot"), config) for u in (0, 33, 66, 99, 300)]
    assert [table["op"] for table in tables] == pytest.approx(
        [0.05, 0.05 - 0.04 / 3, 0.05 - 0.08 / 3, 0.01, 0.01]
    )
    assert [table["slot"] for table in tables] == pytest.approx(
        [0.2, 0.2 * 2 / 3, 0.2 / 3, 0.0, 0.0], abs=1e-15
    )
    assert compute_entropy_coefs(0, 1, ("op",), config) == {"op": 0.05}


def test_floors_fade_before_the_last_quarter() -> None:
    coefs = [compute_floor_coef(u, UPDATES, EntropyConfig()) for u in (0, 25, 75, 99)]
    assert coefs == pytest.approx([0.3, 0.2, 0.0, 0.0])
