"""The table of the score study: ranks within a group, means over hosts, failed runs as the worst."""

from __future__ import annotations

import math

import pytest

from score_tables import average_over_hosts, build_groups, correlate_ranks, score_table
from study_rows import Row


def make_row(seed: int, blueprint: str, replicate: int, gain: float | None, *, share: float) -> Row:
    return {
        "arm": "score",
        "seed": seed,
        "epoch": 5,
        "slot": "block1",
        "blueprint": blueprint,
        "replicate": replicate,
        "share": share,
        "energy": 2.0,
        "num_params": 10,
        "flops_per_item": 20,
        "twin_loss": 1.0,
        "grown_loss": None if gain is None else 1.0 - gain,
    }


def make_rows(seed: int, gains: tuple[float, ...]) -> list[Row]:
    """Three pairs whose shares rise; each build seed adds a little."""
    return [
        make_row(seed, f"b{place}", replicate, gain + 0.001 * replicate, share=0.1 * place)
        for place, gain in enumerate(gains)
        for replicate in range(2)
    ]


def test_ranks_within_a_group_are_compared_not_values() -> None:
    groups = build_groups([*make_rows(1, (0.1, 0.2, 9.0)), *make_rows(2, (3.0, 0.2, 0.1))])
    rhos = [group.correlate(lambda row: float(str(row["share"]))) for group in groups]
    assert rhos == [pytest.approx(1.0), pytest.approx(-1.0)]
    assert groups[0].agreement() == pytest.approx(1.0)


def test_a_failed_run_counts_as_the_worst_of_its_group() -> None:
    rows = [
        make_row(1, "a", 0, None, share=0.1),
        make_row(1, "b", 0, -0.3, share=0.2),
        make_row(1, "c", 0, 0.4, share=0.3),
    ]
    (group,) = build_groups(rows)
    assert [gains[0] for gains in group.gains] == pytest.approx([-0.3, -0.3, 0.4])


def test_a_pair_without_all_its_build_seeds_is_left_out() -> None:
    rows = make_rows(1, (0.1, 0.2, 0.3))
    (group,) = build_groups(rows[:-1])
    assert [row["blueprint"] for row in group.rows] == ["b0", "b1"]


@pytest.mark.parametrize(("left", "right"), [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
def test_too_few_or_equal_numbers_have_no_rank_correlation(left: list[float], right: list[float]) -> None:
    assert math.isnan(correlate_ranks(left, right))


def test_hosts_count_alike_however_many_groups_they_have() -> None:
    groups = build_groups([*make_rows(1, (0.1, 0.2, 0.3)), *make_rows(2, (0.1, 0.2, 0.3))])
    mean, low, high = average_over_hosts([groups[0], groups[0], groups[1]], [1.0, 1.0, -1.0])
    assert mean == 0.0
    assert low <= mean <= high


def test_the_table_names_its_trials_and_stands_size_beside_the_score() -> None:
    text = score_table("toy", [*make_rows(1, (0.1, 0.2, 0.3)), *make_rows(2, (0.1, 0.2, 0.4))])
    assert "12 trials, 6 pairs in 2 groups of 2 hosts" in text
    assert "| cross-validated share | +1.00 [+1.00, +1.00] |" in text
    assert "| parameters of the seed | +nan (one host) |" in text
