"""What tuning has decided, as one committed file: budget, epochs, learning rates, per task.

    calibrate rows    the mean bill of the heuristic is the budget; epochs by which each arm would spend it
    recalibrate rows  epochs once more, from runs of about that length
    tune rows         the rate with the best mean validation accuracy, the smaller one of equals

Rows come from seeds of 1000 and more, and hold validation results only.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from esper.leyline import ConfigError, JsonValue
from growth.arms import ARM_NAMES, CALIBRATED, GROWN

if TYPE_CHECKING:
    from study_queue import Row

FORMAT = 1


@dataclass(slots=True, kw_only=True)
class Settled:
    """Decisions for one task."""

    budget_flops: int
    """What every arm that is matched by FLOPs may spend."""
    epochs: dict[str, int] = field(default_factory=dict)
    """Of the arms that decide as they go."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak rate of every tuned arm."""


def settle_budget(rows: Sequence[Row], arms: Sequence[str]) -> Settled:
    """Return budget and epochs from the rows of calibration.

    Args:
        rows: Of stage "calibrate", one task, all of the same number of epochs.
        arms: Names of the arms that are wanted; the heuristic is always among them.

    Raises:
        ConfigError: If an arm has no row, or one of its runs failed.
    """
    settled = Settled(budget_flops=round(_mean_bill(rows, GROWN)))
    for arm in CALIBRATED:
        if arm in arms or arm == GROWN:
            settled.epochs[arm] = _fit_epochs(rows, arm, settled.budget_flops)
    return settled


def settle_epochs(settled: Settled, rows: Sequence[Row]) -> None:
    """Correct the epochs of every calibrated arm but the heuristic, whose mean bill is the budget.

    Args:
        settled: Its budget stays.
        rows: Of stage "recalibrate", one task; an arm's rows are of the epochs settled so far.

    Raises:
        ConfigError: If an arm has no row, or one of its runs failed.
    """
    for arm in settled.epochs:
        if arm != GROWN:
            settled.epochs[arm] = _fit_epochs(rows, arm, settled.budget_flops)


def _fit_epochs(rows: Sequence[Row], arm: str, budget: float) -> int:
    """Return the epochs of an arm's rows times budget over mean bill: bills grow about as epochs do."""
    epochs = next((int(str(row["epochs"])) for row in rows if row["arm"] == arm), 0)
    return max(1, round(epochs * budget / _mean_bill(rows, arm)))


def _mean_bill(rows: Sequence[Row], arm: str) -> float:
    of_arm = [row for row in rows if row["arm"] == arm]
    failed = [row for row in of_arm if row["failure"] is not None]
    if not of_arm or failed:
        raise ConfigError(
            f"calibration, arm {arm}: {len(of_arm)} runs, {len(failed)} failed; expected at least one run "
            "and no failure"
        )
    return statistics.fmean(int(str(row["flops_total"])) for row in of_arm)


def settle_rates(settled: Settled, rows: Sequence[Row]) -> None:
    """Choose the rate of every arm that has rows.

    Args:
        settled: Where the rates go.
        rows: Of stage "tune", one task.
    """
    for arm in ARM_NAMES:
        values: dict[float, list[float]] = {}
        for row in rows:
            if row["arm"] == arm:
                values.setdefault(float(str(row["learning_rate"])), []).append(
                    float(str(row["validation_accuracy"]))
                )
        means = {rate: statistics.fmean(of_rate) for rate, of_rate in values.items()}
        if means:
            settled.learning_rates[arm] = max(means, key=lambda rate: (means[rate], -rate))


def read_settled(path: Path) -> dict[str, Settled]:
    """Return the decisions by task; none if there is no file.

    Raises:
        ConfigError: If the file has another format.
    """
    if not path.exists():
        return {}
    plain = json.loads(path.read_text(encoding="utf-8"))
    if plain.get("format") != FORMAT:
        raise ConfigError(f"{path}: format {plain.get('format')!r}, expected {FORMAT}; settle it anew")
    return {name: Settled(**decisions) for name, decisions in plain["tasks"].items()}


def write_settled(path: Path, settled: Mapping[str, Settled]) -> None:
    """Write the decisions, names in order, so that a difference can be read."""
    tasks: dict[str, JsonValue] = {
        name: {
            "budget_flops": decisions.budget_flops,
            "epochs": decisions.epochs,
            "learning_rates": decisions.learning_rates,
        }
        for name, decisions in settled.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, "tasks": tasks}, indent=2, sort_keys=True) + "\n", "utf-8")
