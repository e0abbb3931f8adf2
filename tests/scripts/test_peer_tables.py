"""Reach, anytime accuracy, tables and the picture of the benchmark against peers, worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from growth.arms import ARM_NAMES
from growth.settled import read_settled

import peer_curves
from peer_curves import compute_band
from peer_rows import compute_anytime, compute_reach, find_target, read_budget
from peer_tables import ARMS, peer_tables
from study_rows import Row, check_rows, read_rows
from study_tables import build_table

ROOT = Path(__file__).resolve().parents[2]
CURVE = [(10.0, 0.2), (20.0, 0.9), (30.0, 0.5), (40.0, 0.6), (50.0, 0.7)]


def peer_row(arm: str, seed: int, accuracy: float, *, rate: float = 0.1, failure: str | None = None) -> Row:
    return {
        "stage": "publish" if seed < 1000 else "tune",
        "arm": arm,
        "seed": seed,
        "task": "toy",
        "learning_rate": rate,
        "protocol_hash": "p",
        "budget_flops": 4_000_000_000,
        "epochs": 3,
        "flops_total": 0 if failure else 3_000_000_000,
        "test_accuracy": accuracy if seed < 1000 else None,
        "validation_accuracy": accuracy,
        "params_final": 10,
        "params_peak": 12,
        "loss_jump": None,
        "num_grown": 0,
        "num_refused": 0,
        "growth_seconds": 0.0,
        "cpu_seconds": 1.0,
        "curve": [] if failure else [[1_000_000_000 * (place + 1), accuracy] for place in range(3)],
        "failure": failure,
    }


def test_reach_asks_the_median_of_three_not_a_lucky_epoch() -> None:
    # Medians of three: .5 at 30, .6 at 40, .6 at 50; the .9 at 20 alone counts for nothing.
    assert compute_reach(CURVE, 0.5) == 30.0
    assert compute_reach(CURVE, 0.6) == 40.0
    assert compute_reach(CURVE, 0.65) == math.inf
    assert compute_reach(CURVE[:2], 0.1) == math.inf
    assert compute_reach([], 0.1) == math.inf


def test_anytime_is_the_area_over_the_whole_budget() -> None:
    # Nothing to 10, .2 to 20, .9 to 30, .5 to 40, .6 to 50, and .7 held to 60.
    area = 10 * (0.2 + 0.9 + 0.5 + 0.6 + 0.7)
    assert compute_anytime(CURVE, 60.0) == pytest.approx(area / 60)
    assert compute_anytime(CURVE, 25.0) == pytest.approx((10 * 0.2 + 5 * 0.9) / 25)
    assert compute_anytime([], 25.0) == 0.0


def test_the_target_is_that_of_the_better_fixed_size() -> None:
    arms = {"small": {0: peer_row("small", 0, 0.7)}, "big": {0: peer_row("big", 0, 0.8)}}
    assert find_target(arms) == ("big", 0.8)
    assert find_target({}) is None


def test_reach_is_shown_as_a_share_of_the_bill_that_set_the_target() -> None:
    rows = [peer_row("big", seed, 0.8) for seed in range(2)]
    rows += [peer_row("heuristic", 0, 0.9), peer_row("heuristic", 1, 0.85)]
    table = peer_tables("toy", rows)
    # The third epoch is the first with three values: 3 of 3 GFLOP.
    line = next(line for line in table.splitlines() if line.startswith("| heuristic"))
    assert "1.00x (2 of 2)" in line


def test_a_failed_run_counts_at_chance_and_has_no_part_in_the_bill() -> None:
    rows = [peer_row("big", 0, 0.8), peer_row("big", 1, 0.1, failure="broke"), peer_row("big", 2, 0.8)]
    line = next(line for line in peer_tables("toy", rows).splitlines() if line.startswith("| big"))
    cells = [cell.strip() for cell in line.split("|")]
    assert f"{(0.8 + 0.1 + 0.8) / 3:.4f}" in cells
    assert "0.750" in cells  # 3 of 4 GFLOP, by the two runs that ended
    assert cells[-3] == "1"


def test_tuning_shows_the_best_rate_in_bold_and_the_smaller_of_equals() -> None:
    rows = [peer_row("small", 1000, 0.7, rate=rate) for rate in (0.3, 0.1)]
    assert "| small | **0.7000 (1)** | 0.7000 (1) |" in peer_tables("toy", rows)


def test_a_table_is_smoke_until_every_arm_has_ten_seeds() -> None:
    assert "(smoke)" in peer_tables("toy", [peer_row("big", 0, 0.8)])
    rows = [peer_row(arm, seed, 0.7 + 0.01 * seed) for arm in ARMS for seed in range(10)]
    assert "(smoke)" not in peer_tables("toy", rows)


def test_rows_that_must_not_stand_in_one_table_are_refused() -> None:
    other = {**peer_row("big", 1, 0.8), "budget_flops": 5}
    with pytest.raises(ValueError, match="2 budgets"):
        read_budget([peer_row("big", 0, 0.8), other])
    with pytest.raises(ValueError, match="rates"):
        peer_tables("toy", [peer_row("big", 0, 0.8), peer_row("big", 1, 0.8, rate=0.3)])
    with pytest.raises(ValueError, match="same"):
        check_rows([peer_row("big", 0, 0.8), peer_row("big", 0, 0.8)], "here")


def test_stages_of_the_same_run_may_stand_in_one_file() -> None:
    row = peer_row("heuristic", 1000, 0.8)
    check_rows([row, {**row, "stage": "calibrate"}], "here")
    assert "rate 0.1" in build_table("peer_toy", [row])


def test_every_arm_of_the_study_has_its_line() -> None:
    assert set(ARMS) == set(ARM_NAMES)


def test_a_band_begins_where_all_seeds_are_known_and_ends_with_the_shortest() -> None:
    band = compute_band([CURVE, [(20.0, 0.4), (45.0, 0.8)]], 100.0)
    assert band.flops[0] >= 20.0
    assert band.flops[-1] == 45.0
    assert band.mean[0] == pytest.approx((0.9 + 0.4) / 2)
    assert band.mean[-1] == pytest.approx((0.6 + 0.8) / 2)


def test_a_picture_is_the_same_twice_and_names_its_arms() -> None:
    rows = [peer_row("heuristic", seed, 0.8 + 0.01 * seed) for seed in range(3)]
    picture = peer_curves.draw("toy", rows)
    assert picture == peer_curves.draw("toy", rows)
    assert b"heuristic (3)" in picture


def test_the_committed_pictures_are_those_of_the_committed_rows() -> None:
    for name, picture in peer_curves.draw_all(ROOT / "benchmarks" / "results").items():
        assert (ROOT / "docs" / name).read_bytes() == picture, f"{name}: run scripts/peer_curves.py"


def test_committed_rows_of_a_published_arm_are_at_its_settled_rate() -> None:
    settled = read_settled(ROOT / "benchmarks" / "growth" / "settled.json")
    for path in (ROOT / "benchmarks" / "results").glob("peer_*.jsonl"):
        decisions = settled[path.stem.removeprefix("peer_")]
        for row in read_rows(path):
            if row["stage"] == "publish":
                assert row["learning_rate"] == decisions.learning_rates[str(row["arm"])]
                assert row["budget_flops"] == decisions.budget_flops
