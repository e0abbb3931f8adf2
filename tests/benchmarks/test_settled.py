"""What is decided from rows, by hand, and the file that it is kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
from growth.settled import (
    Settled,
    read_settled,
    settle_budget,
    settle_epochs,
    settle_rates,
    write_settled,
)

from esper.leyline import ConfigError, JsonValue

ARMS = ("heuristic", "greedy")


def bill(arm: str, flops: int, epochs: int = 40, failure: str | None = None) -> dict[str, JsonValue]:
    return {"arm": arm, "flops_total": flops, "epochs": epochs, "failure": failure}


def tuned(arm: str, rate: float, accuracy: float) -> dict[str, JsonValue]:
    return {"arm": arm, "learning_rate": rate, "validation_accuracy": accuracy}


def test_the_budget_is_the_mean_bill_of_the_heuristic_and_epochs_follow() -> None:
    rows = [bill("heuristic", 90), bill("heuristic", 110), bill("greedy", 40), bill("greedy", 60)]
    settled = settle_budget(rows, ARMS)
    assert settled.budget_flops == 100
    assert settled.epochs == {"heuristic": 40, "greedy": 80}


def test_recalibration_starts_from_the_epochs_that_were_run() -> None:
    settled = Settled(budget_flops=100, epochs={"heuristic": 40, "greedy": 80})
    settle_epochs(settled, [bill("greedy", 125, epochs=80)])
    assert settled.epochs == {"heuristic": 40, "greedy": 64}


def test_a_failed_calibration_or_a_missing_one_decides_nothing() -> None:
    with pytest.raises(ConfigError, match="greedy: 0 runs"):
        settle_budget([bill("heuristic", 90)], ARMS)
    with pytest.raises(ConfigError, match="1 failed"):
        settle_budget([bill("heuristic", 90), bill("greedy", 0, failure="broke")], ARMS)


def test_the_best_mean_wins_and_of_equals_the_smaller_rate() -> None:
    settled = Settled(budget_flops=1)
    rows = [tuned("small", 0.1, 0.5), tuned("small", 0.1, 0.7), tuned("small", 0.3, 0.65)]
    rows += [tuned("big", 0.3, 0.8), tuned("big", 0.1, 0.8)]
    settle_rates(settled, rows)
    assert settled.learning_rates == {"small": 0.3, "big": 0.1}


def test_decisions_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settled.json"
    assert read_settled(path) == {}
    settled = {"digits": Settled(budget_flops=7, epochs={"greedy": 3}, learning_rates={"small": 0.1})}
    write_settled(path, settled)
    assert read_settled(path) == settled


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settled.json"
    path.write_text('{"format": 99, "tasks": {}}', encoding="utf-8")
    with pytest.raises(ConfigError, match="format 99"):
        read_settled(path)
