"""The page on performance equals its rows, and what it says of rows is worked out by hand.

Covers scripts/performance_tables.py, performance_rows.py, precision_tables.py and speed_tables.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import performance_tables
from performance_rows import Row, compute_spread, numbers, pair_ratios
from performance_tables import PAGE, ROWS, TABLES, keep_host_run, rewrite
from precision_tables import (
    build_attention,
    build_floors,
    build_metrics,
    build_rates,
    build_times,
    find_copy_rate,
    find_peak,
    judge,
)
from speed_tables import build_epochs, build_measuring, build_ratios

GIGA = 1e9
WITH_PLACES = (
    "roofline",
    "precision",
    "attention_precision",
    "fleets",
    "process_fleet",
    "training_shares",
    "dashboard_attached",
)


def kernel(kind: str, size: int, rates: list[float], dtype: str = "float32") -> Row:
    return {"kind": kind, "dtype": dtype, "size": size, "rates": rates}


CEILINGS = [
    kernel("product", 64, [40 * GIGA]),
    kernel("product", 256, [90 * GIGA, 100 * GIGA, 110 * GIGA]),
    kernel("product", 256, [200 * GIGA], "bf16"),
    kernel("copy", 1_000, [50 * GIGA]),
    kernel("copy", 1_000_000, [20 * GIGA]),
]


def run(amp: str, seed: int, seconds: list[float], metric: float) -> Row:
    return {
        "host": "toy",
        "amp": amp,
        "seed": seed,
        "metric_name": "accuracy",
        "params": 1234,
        "flops_per_item": 1_000_000,
        "kept_bytes_per_batch": 500_000,
        "batch_size": 100,
        "batches": 10,
        "train_seconds": seconds,
        "epoch_seconds": [2 * second for second in seconds],
        "metric": metric,
    }


RUNS = [
    run("off", 1000, [0.2, 0.2], 0.80),
    run("bf16", 1000, [0.1, 0.16], 0.81),
    run("off", 1001, [0.2, 0.2], 0.90),
    run("bf16", 1001, [0.125, 0.2], 0.91),
]


def host_run(task: str) -> Row:
    def column(cpu: list[float], flops: int, live: int) -> dict[str, list[float]]:
        half = [second / 2 for second in cpu]
        return {"cpu": cpu, "train_cpu": half, "flops": [flops] * 3, "num_live": [0, live, live]}

    return {
        "task": task,
        "batches_per_epoch": 10,
        "num_slots": 2,
        "flops": {"train": 80, "validation": 10, "calibration": 4, "counterfactual": 6},
        "columns": {
            "bare": column([1.0, 1.0, 1.0], 100, 0),
            "never": column([1.0, 1.1, 1.2], 100, 0),
            "held": column([2.0, 2.0, 2.0], 160, 2),
            "grown": column([2.0, 3.0, 4.0], 200, 1),
        },
    }


def test_the_page_equals_its_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rewrite(page, ROWS) == page, "run scripts/performance_tables.py"


def test_an_altered_number_makes_the_page_differ() -> None:
    page = PAGE.read_text(encoding="utf-8")
    start = page.index("<!-- table:precision_time -->")
    altered = page[:start] + page[start:].replace("| bf16 |", "| bf17 |", 1)
    assert altered != page
    assert rewrite(altered, ROWS) == page


def test_a_table_without_a_place_on_the_page_is_refused() -> None:
    with pytest.raises(ValueError, match="places for"):
        rewrite("<!-- table:rates -->\n<!-- /table -->\n", ROWS)
    assert "rates" in TABLES


def test_the_spread_is_a_median_between_quartiles() -> None:
    assert compute_spread([1.0, 2.0, 3.0, 4.0, 5.0]).show(1) == "3.0 [2.0, 4.0]"
    assert compute_spread([7.0]).show(0) == "7 [7, 7]"


def test_ratios_pair_what_stands_side_by_side_and_refuse_what_stands_alone() -> None:
    assert pair_ratios([2.0, 3.0], [1.0, 6.0]) == [2.0, 0.5]
    with pytest.raises(ValueError, match="zip"):
        pair_ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize("bad", [None, "1.0", [True], ["1"], {"a": 1}])
def test_what_is_no_list_of_numbers_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="list of numbers"):
        numbers(bad)


def test_the_peak_is_the_best_size_of_a_type() -> None:
    assert find_peak(CEILINGS, "float32") == 100 * GIGA
    assert find_peak(CEILINGS, "bf16") == 200 * GIGA


def test_bytes_move_at_the_rate_of_the_smallest_working_set_that_holds_them() -> None:
    assert find_copy_rate(CEILINGS, 900) == 50 * GIGA
    assert find_copy_rate(CEILINGS, 1_001) == 20 * GIGA
    assert find_copy_rate(CEILINGS, 1e12) == 20 * GIGA


def test_rates_set_half_precision_beside_single() -> None:
    table = build_rates(CEILINGS)
    assert (
        "| product | 256 x 256 | 100.0 [95.0, 105.0] GFLOP/s | 200.0 [200.0, 200.0] GFLOP/s | 2.00 |" in table
    )
    assert "| product | 64 x 64 | 40.0 [40.0, 40.0] GFLOP/s | - | - |" in table


def test_floors_carry_their_arithmetic() -> None:
    # 3 x 1e6 x 100 = 3e8 operations at 1e11 per second: 3 ms; 1e6 bytes at 2e10: 0.05 ms; a batch: 20 ms.
    assert build_floors(RUNS, CEILINGS).splitlines()[-1] == (
        "| toy | 3 x 1.000 MFLOP x 100 / 100.0 GFLOP/s = 3.000 ms | 2 x 0.50 MB / 20.0 GB/s = 0.050 ms "
        "| 20.00 ms | 6.7 |"
    )


def test_a_gain_is_the_median_over_epochs_side_by_side() -> None:
    # Ratios 2, 1.25, 1.6, 1: median 1.425, quartiles 1.1875 and 1.7.
    assert "| 1.43 [1.19, 1.70] | 1.43 [1.19, 1.70] | 4 | gain |" in build_times(RUNS)


def test_attention_is_held_against_float32_round_by_round() -> None:
    ways = {"float32": [0.002, 0.002, 0.002], "bf16": [0.004, 0.006, 0.008], "cast": [0.002, 0.002, 0.004]}
    rows: list[Row] = [
        {"shape": [32, 2, 64, 16], "way": way, "seconds": seconds} for way, seconds in ways.items()
    ]
    assert "| 32 | 2 | 64 | 16 | 2.00 | 3.00 [2.50, 3.50] | 1.00 [1.00, 1.50] |" in build_attention(rows)


@pytest.mark.parametrize(
    ("median", "verdict"), [(1.05, "gain"), (1.049, "no gain"), (0.96, "no gain"), (0.95, "loss")]
)
def test_less_than_five_hundredths_is_no_gain(median: float, verdict: str) -> None:
    assert judge(compute_spread([median])) == verdict


def test_metrics_are_paired_by_seed_and_held_against_the_spread_over_seeds() -> None:
    line = build_metrics(RUNS).splitlines()[-1]
    assert line.startswith("| toy | bf16 | accuracy | 0.8500 | 0.0707 | +0.0100 [")
    assert f"| {0.01 / (0.1 / math.sqrt(2)):.2f} | 2 |" in line


def test_a_seed_without_its_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="toy: expected each of 2 seeds once"):
        build_times(RUNS[:-1])
    with pytest.raises(ValueError, match="toy: expected each of 2 seeds once"):
        build_metrics([*RUNS, RUNS[0]])


def test_ratios_of_a_host_run_are_held_against_their_targets() -> None:
    table = build_ratios([host_run("fashion_mnist")])
    assert "| never / bare, whole epoch | 1.100 [1.050, 1.150] | 3 | <= 1.10 | met |" in table
    # Twice the time at 1.6 times the FLOPs, and only where both slots live.
    assert "| held / bare per FLOP, 2 live seeds | 1.250 [1.250, 1.250] | 2 | <= 1.25 | met |" in table
    assert "| grown / bare per FLOP | 1.500 [1.250, 1.750] | 3 | <= 1.25 | **missed** |" in table
    assert "<=" not in build_ratios([host_run("digits")])


def test_an_epoch_is_shown_with_its_rate() -> None:
    assert "| digits | held | 2.000 | 1.000 | 100,000 | 0.0 |" in build_epochs([host_run("digits")])


def test_measuring_is_calibration_and_counterfactuals() -> None:
    assert "| 0.100 | <= 0.15 | met |" in build_measuring([host_run("fashion_mnist")])


def test_a_new_document_takes_the_place_of_its_tasks_and_leaves_the_others() -> None:
    epoch = {"cpu": 1.0, "wall": 9.0, "train_cpu": 0.5, "flops": 7, "num_live": 0, "stages": []}
    task = {
        "task": "digits",
        "rows": 3,
        "batches_per_epoch": 1,
        "num_slots": 2,
        "flops": {"train": 1},
        "columns": {"bare": [epoch, epoch]},
        "measuring_share": 0.0,
    }
    old = [{"task": "digits", "rows": 1}, {"task": "other", "rows": 2}]
    rows = keep_host_run({"torch": "2", "tasks": [task]}, old)
    assert [row["task"] for row in rows] == ["other", "digits"]
    assert rows[1]["columns"] == {
        "bare": {"cpu": [1.0, 1.0], "train_cpu": [0.5, 0.5], "flops": [7, 7], "num_live": [0, 0]}
    }


def test_the_command_checks_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    whole = PAGE.read_text(encoding="utf-8")
    page.write_text(whole.replace("| bf16 |", "| bf17 |"), encoding="utf-8")
    monkeypatch.setattr(performance_tables, "PAGE", page)
    assert performance_tables.main(["--check"]) == 1
    assert performance_tables.main([]) == 0
    assert page.read_text(encoding="utf-8") == whole
    assert performance_tables.main(["--check"]) == 0


def test_every_row_that_the_page_rests_on_says_where_it_was_measured() -> None:
    for name in WITH_PLACES:
        for line in (ROWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert {"device", "torch", "threads"} <= set(row), row
