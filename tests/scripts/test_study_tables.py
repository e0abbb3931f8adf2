"""What the tables say follows from the rows alone."""

from __future__ import annotations

import pytest

from study_rows import Row
from study_tables import build_table, choose_rates, gain_over_twin


def growth_row(arm: str, seed: int, accuracy: float, rate: float = 0.1) -> Row:
    return {
        "arm": arm,
        "seed": seed,
        "learning_rate": rate,
        "protocol_hash": "p",
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy if seed < 1000 else None,
        "test_loss": 0.5,
        "params_total": 10,
        "flops_total": 2_000_000_000,
        "epochs": 3,
        "seconds": 1.0,
        "num_germinated": 1,
        "num_culled": 0,
        "fossils": [],
        "failure": None,
    }


def test_each_arm_is_published_at_the_rate_that_validation_chose() -> None:
    tuning = [growth_row("never", 1000, 0.7, rate=0.1), growth_row("never", 1000, 0.8, rate=0.3)]
    published = [growth_row("never", 0, 0.75, rate=0.1), growth_row("never", 0, 0.6, rate=0.3)]
    assert choose_rates(tuning) == {"never": 0.3}
    table = build_table("growth_toy", [*tuning, *published])
    assert "| never | 0.3 | 1 | 0.6000 |" in table
    assert "**0.8000 (1)**" in table
    assert "0.7500" not in table


def test_equal_means_choose_the_smaller_rate() -> None:
    rows = [growth_row("never", 1000, 0.7, rate=rate) for rate in (0.3, 0.1)]
    assert choose_rates(rows) == {"never": 0.1}


def test_several_rates_without_tuning_are_refused() -> None:
    rows = [growth_row("never", 0, 0.7, rate=rate) for rate in (0.3, 0.1)]
    with pytest.raises(ValueError, match="none of tuning seeds"):
        build_table("growth_toy", rows)


def test_a_table_without_every_arm_on_ten_seeds_says_smoke() -> None:
    assert "(smoke)" in build_table("growth_toy", [growth_row("never", 0, 0.7)])
    arms = ("never", "heuristic", "random", "static_final_epochs", "static_final_flops", "never_flops")
    rows = [growth_row(arm, seed, 0.7 + 0.01 * seed) for arm in arms for seed in range(10)]
    assert "(smoke)" not in build_table("growth_toy", rows)


def twin_row(seed: int, contribution: float, gain: float, gate_metric: str = "accuracy") -> Row:
    return {
        "arm": "twin",
        "seed": seed,
        "germination": 0,
        "learning_rate": 0.1,
        "protocol_hash": "p",
        "gate_metric": gate_metric,
        "is_kept": True,
        "contribution": contribution,
        "final_contribution": contribution,
        "test_accuracy": 0.8 + gain,
        "twin_test_accuracy": 0.8,
        "test_loss": 0.3,
        "twin_test_loss": 0.4,
        "flops_total": 100,
        "twin_flops": 101,
    }


def test_bias_is_contribution_minus_gain() -> None:
    rows = [twin_row(seed, 0.05 + 0.01 * seed, 0.01 * seed) for seed in range(5)]
    table = build_table("twin_toy", rows)
    assert "| +0.0500 [+0.0500, +0.0500] |" in table
    assert "| +1.00 [" in table
    assert "twins at 1.010 of the FLOPs" in table


def test_a_gain_in_loss_is_what_the_twin_loses_more() -> None:
    assert gain_over_twin(twin_row(0, 0.1, 0.0, gate_metric="loss")) == pytest.approx(0.1)


def test_an_unknown_study_is_refused() -> None:
    known = "curve, growth, headroom, incubation, peer, policy, score, twin"
    with pytest.raises(ValueError, match=f"must begin with one of {known}"):
        build_table("speed_toy", [])
