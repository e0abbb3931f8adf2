"""Statistics of the published tables against an independent library and against hand calculation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from study_rows import Row, by_seed, estimate_interval, read_rows, show_difference


def row(arm: str, seed: int, value: float, rate: float = 0.1) -> Row:
    return {"arm": arm, "seed": seed, "learning_rate": rate, "score": value, "protocol_hash": "p"}


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    differences = [0.1, 0.3, -0.05, 0.2, 0.12]
    interval = estimate_interval(differences)
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert interval.half_width is not None
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)


def test_one_pair_gives_no_interval() -> None:
    assert estimate_interval([0.25]).half_width is None
    assert estimate_interval([0.25]).show() == "+0.2500 (one seed)"


def test_differences_are_paired_by_seed_and_leave_out_what_has_no_partner() -> None:
    base = by_seed([row("never", 0, 0.5), row("never", 1, 0.7)], "never")
    grown = by_seed([row("grown", 1, 0.8), row("grown", 2, 9.0)], "grown")
    assert show_difference(grown, base, "score") == "+0.1000 (one seed)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("never", 0, 0.5), row("never", 0, 0.6)], "rows with the same"),
        ([row("never", 0, 0.5), {**row("never", 1, 0.6), "protocol_hash": "q"}], "different settings"),
    ],
)
def test_rows_that_must_not_meet_are_refused(tmp_path: Path, rows: list[Row], message: str) -> None:
    path = tmp_path / "growth_toy.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_rows(path)
