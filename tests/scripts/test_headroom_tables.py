"""The table of headroom: numbers worked out by hand on three hosts, three schedules and two lives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from builders import make_budgets, make_observation
from esper.simic.rewards.gain import compute_objective as compute_objective_of_observation
from headroom_tables import (
    Headroom,
    Lives,
    compute_lives,
    compute_objective,
    headroom_table,
    measure_headroom,
    split_hosts,
    standard_error,
)
from study_rows import Row, check_rows
from study_tables import build_table

HOSTS: tuple[Lives, ...] = (
    {"never": (0.80, 0.80), "early": (0.90, 0.86), "late": (0.84, 0.88)},
    {"never": (0.80, 0.80), "early": (0.70, 0.74), "late": (0.76, 0.82)},
    {"never": (0.80, 0.80), "early": (0.80, 0.80), "late": (0.86, 0.90)},
)
"""Means: .80, .88, .86; .80, .72, .79; .80, .80, .88. Over hosts: never .80, early .80, late .8433."""


def make_row(seed: int, schedule: str, life: int, metric: float, *, added: int = 0, spent: int = 100) -> Row:
    return {
        "schedule": schedule,
        "seed": seed,
        "replicate": life,
        "task": "digits",
        "protocol_hash": "p",
        "metric": metric,
        "host_params": 100,
        "added_params": added,
        "flops_spent": spent,
        "never_grow_flops": 100,
        "failure": None,
    }


def make_rows() -> list[Row]:
    """`HOSTS` as lives without a price, so that J is the metric."""
    return [
        make_row(1000 + host, schedule, life, value)
        for host, lives in enumerate(HOSTS)
        for schedule, values in lives.items()
        for life, value in enumerate(values)
    ]


def test_headroom_is_what_the_best_schedule_of_each_host_wins_over_the_best_overall() -> None:
    found = measure_headroom(HOSTS)
    assert found.best == "late"
    assert found.best_objective == pytest.approx(2.53 / 3)
    assert found.gains == pytest.approx((0.02, 0.01, 0.0))
    assert found.num_never == 1


def test_crossed_gains_are_judged_on_the_life_that_did_not_choose() -> None:
    # Host 0: life 0 chooses early, .86 in life 1; life 1 chooses late, .84 in life 0: mean .85, late has .86.
    # Host 1: life 0 chooses never, .80; life 1 chooses late, .76 in life 0: mean .78, late has .79.
    # Host 2: both choose late, .88.
    assert measure_headroom(HOSTS).crossed_gains == pytest.approx((-0.01, -0.01, 0.0))


def test_a_standard_error_is_of_the_mean_over_hosts_and_unknown_for_one() -> None:
    assert standard_error((0.02, 0.01, 0.0)) == pytest.approx(0.01 / math.sqrt(3))
    assert math.isnan(standard_error((0.02,)))


@pytest.mark.parametrize(
    ("gains", "num_never", "is_learnable"),
    [
        ((0.02, 0.01, 0.0), 1, False),  # .01 is less than two of .0058
        ((0.02, 0.02, 0.01), 1, True),  # .0167 is more than two of .0033
        ((0.02, 0.02, 0.01), 0, False),
        ((0.0, 0.0, 0.0), 3, False),
        ((0.02,), 1, False),
        ((0.02, 0.02, 0.02, 0.02, 0.01), 1, True),  # a fifth is enough
        ((0.02, 0.02, 0.02, 0.02, 0.02, 0.01), 1, False),
    ],
)
def test_learnable_needs_two_standard_errors_and_never_best_on_a_fifth(
    gains: tuple[float, ...], num_never: int, is_learnable: bool
) -> None:
    found = Headroom(best="late", best_objective=0.8, gains=gains, crossed_gains=gains, num_never=num_never)
    assert found.is_learnable is is_learnable


def test_of_equal_schedules_the_first_counts_so_that_never_wins_a_draw() -> None:
    found = measure_headroom([{"never": (0.8, 0.8), "early": (0.8, 0.8)}])
    assert (found.best, found.num_never) == ("never", 1)


def test_the_objective_takes_the_price_of_size_by_its_logarithm_and_of_flops_in_scales() -> None:
    # .9 - .05 * .2 * (log 2 + 1.5)
    row = make_row(1000, "early", 0, 0.9, added=100, spent=250)
    assert compute_objective(row, 0.2) == pytest.approx(0.9 - 0.01 * (math.log(2.0) + 1.5))


def test_the_objective_is_that_of_the_reward() -> None:
    budgets = replace(
        make_budgets(10), host_params=612, added_params=2128, flops_spent=2501, never_grow_flops=552
    )
    observation = make_observation(budgets=budgets)
    same = make_row(1000, "early", 0, observation.signals.metric, added=2128, spent=2501)
    row: Row = {**same, "host_params": 612, "never_grow_flops": 552}
    for price in (0.05, 0.3):
        wanted = compute_objective_of_observation(observation, price, price)
        assert compute_objective(row, price) == pytest.approx(wanted)


def test_lives_are_ordered_by_their_number_and_not_by_their_row() -> None:
    rows = [make_row(1000, "never", 1, 0.7), make_row(1000, "never", 0, 0.8)]
    assert compute_lives(rows, 0.1) == {"never": (0.8, 0.7)}


def test_hosts_that_lack_a_schedule_or_a_life_are_left_out_and_counted() -> None:
    lacking = [make_row(2000, "never", life, 0.8) for life in (0, 1)]
    lacking += [make_row(2001, schedule, 0, 0.8) for schedule in ("never", "early", "late")]
    hosts, num_left_out = split_hosts([*lacking, *make_rows()])
    assert [{row["seed"] for row in host} for host in hosts] == [{1000}, {1001}, {1002}]
    assert num_left_out == 2
    text = headroom_table("toy", [*lacking, *make_rows()])
    assert "3 hosts, 3 schedules, two lives each, validation split; 2 more lack a schedule" in text


def test_the_table_has_a_line_per_price() -> None:
    text = build_table("headroom_toy", make_rows())
    counted = "late | 0.8433 | +0.0100 (0.0058) | -0.0067 (0.0033) | 1 of 3 (0.33) | no |"
    prices = ("0.05", "0.1", "0.2", "0.3")
    assert text.splitlines()[4:] == [f"| {price} | {counted}" for price in prices]
    assert "ended early" not in text


def test_a_higher_price_makes_growing_worse_than_never() -> None:
    values = {"never": 0.80, "early": 0.82}
    rows = [
        make_row(seed, schedule, life, value, spent=100 if schedule == "never" else 300)
        for seed in (1000, 1001)
        for schedule, value in values.items()
        for life in (0, 1)
    ]
    # early has .82 - .05 * price * 2: .815, .81, .80 and .79.
    lines = headroom_table("toy", rows).splitlines()[4:]
    assert [line.split(" | ")[1:3] for line in lines[:2]] == [["early", "0.8150"], ["early", "0.8100"]]
    assert lines[3].split(" | ")[1:3] == ["never", "0.8000"]


def test_a_study_without_a_whole_host_has_no_numbers() -> None:
    text = headroom_table("toy", [make_row(1000, "never", 0, 0.8)])
    assert text == (
        "**toy**: 0 hosts, 1 schedules, two lives each, validation split; 1 more lack a schedule or a life "
        "and are left out\n"
    )


def test_lives_that_ended_early_are_counted_in_the_title() -> None:
    first, *rest = make_rows()
    assert "; 1 lives ended early" in headroom_table("toy", [{**first, "failure": "nan"}, *rest])


def test_schedule_and_life_tell_rows_apart() -> None:
    rows = make_rows()
    check_rows(rows, "toy")
    with pytest.raises(ValueError, match="rows with the same"):
        check_rows([*rows, rows[0]], "toy")


def test_a_row_without_a_number_is_refused_with_its_schedule() -> None:
    with pytest.raises(ValueError, match="row of arm early, seed 1000: metric = None is not a number"):
        compute_objective({**make_row(1000, "early", 0, 0.9), "metric": None}, 0.1)
