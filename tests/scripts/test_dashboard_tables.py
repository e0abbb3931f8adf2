"""The table on an attached dashboard: rounds are paired, a round without its other half is refused."""

from __future__ import annotations

import pytest

from dashboard_tables import build_attached, read_rounds
from performance_rows import Row


def row(way: str, number: int, cpu: float, wall: float) -> Row:
    return {"way": way, "round": number, "seed": number, "cpu": cpu, "wall": wall}


ROWS = [
    row("alone", 0, 0.010, 0.020),
    row("watched", 0, 0.011, 0.020),
    row("watched", 1, 0.020, 0.044),
    row("alone", 1, 0.020, 0.040),
]


def test_a_run_is_compared_with_the_one_of_its_round() -> None:
    assert read_rounds(ROWS, "cpu") == ([0.010, 0.020], [0.011, 0.020])
    table = build_attached(ROWS)
    assert "1.050 [1.025, 1.075]" in table.splitlines()[2]
    assert "<= 1.02, missed" in table.splitlines()[2]
    assert "1.050 [1.025, 1.075]" in table.splitlines()[3]


def test_a_dashboard_that_costs_nothing_meets_the_target() -> None:
    free = [row(way, 0, 0.010, 0.020) for way in ("alone", "watched")]
    assert "<= 1.02, met" in build_attached(free)


def test_a_round_without_its_other_half_is_refused() -> None:
    with pytest.raises(ValueError, match="each needs both"):
        build_attached(ROWS[:3])
