"""Outcomes to signals: deltas, plateaus, a latch for stability. One sign rule: positive means better.

Knows numbers of healthy intervals only; what is done about them is a policy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import (
    HISTORY_LENGTH,
    ConfigError,
    EpochOutcome,
    ForeignCheckpointError,
    JsonValue,
    TrainingSignals,
    suggest,
)

SETTLES_AGAINST = ("previous", "best")
"""What the fall of a loss may be measured from."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SignalTrackerConfig:
    """When a host counts as stuck, and when as settled."""

    plateau_threshold: float = 0.005
    """Metric gain in one interval below which a plateau goes on, in metric units, >= 0: half a point."""
    stable_improvement: float = 0.03
    """Relative fall of the validation loss below which an interval is calm, in (0, 1): steep falls end."""
    settles_against: str = "previous"
    """What a fall is measured from: the "previous" loss, or the "best" so far. They agree while the loss only
    falls; where it goes up and down, half of the intervals fall from the previous one, and a host that has
    long stopped to improve is never calm."""
    stable_epochs: int = 3
    """Calm intervals in a row after which the host is stable for good, >= 0; 0 = at once. 3, because one or
    two calm ones come by chance."""
    max_loss_ratio: float = 1.5
    """Loss over the previous one from which on an interval is never calm, > 1: a jump is not settling."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if not (math.isfinite(self.plateau_threshold) and self.plateau_threshold >= 0):
            raise ConfigError(f"tracker.plateau_threshold={self.plateau_threshold}: must be finite and >= 0")
        if not 0 < self.stable_improvement < 1:
            raise ConfigError(f"tracker.stable_improvement={self.stable_improvement}: must be in (0, 1)")
        if self.stable_epochs < 0:
            raise ConfigError(f"tracker.stable_epochs={self.stable_epochs}: must be >= 0")
        if self.settles_against not in SETTLES_AGAINST:
            raise ConfigError(
                f"tracker.settles_against={self.settles_against!r}: "
                f"{suggest(self.settles_against, SETTLES_AGAINST)}"
            )
        if not (math.isfinite(self.max_loss_ratio) and self.max_loss_ratio > 1):
            raise ConfigError(f"tracker.max_loss_ratio={self.max_loss_ratio}: must be finite and > 1")


@final
class SignalTracker:
    """Remembers what `TrainingSignals` needs; best values are of the whole run."""

    def __init__(self, config: SignalTrackerConfig) -> None:
        """Start without history."""
        self._config = config
        self._losses: list[float] = []
        self._metrics: list[float] = []
        self._best_loss = math.inf
        self._best_metric = -math.inf
        self._plateau = 0
        self._calm = 0
        self._is_stable = config.stable_epochs == 0
        self._peak_rate = 0.0

    def update(self, outcome: EpochOutcome) -> TrainingSignals:
        """Take one interval, judged healthy, and return the signals after it.

        The first interval has no predecessor: its deltas are 0, and it is neither a plateau nor calm.
        """
        loss, metric = outcome.validation_loss, outcome.metric
        loss_delta = self._losses[-1] - loss if self._losses else 0.0
        metric_delta = metric - self._metrics[-1] if self._metrics else 0.0
        is_flat = bool(self._metrics) and metric_delta < self._config.plateau_threshold
        self._plateau = self._plateau + 1 if is_flat else 0
        self._calm = self._calm + 1 if self._is_calm(loss) else 0
        self._is_stable = self._is_stable or self._calm >= self._config.stable_epochs
        self._best_loss = min(self._best_loss, loss)
        self._best_metric = max(self._best_metric, metric)
        self._losses = [*self._losses, loss][-HISTORY_LENGTH:]
        self._metrics = [*self._metrics, metric][-HISTORY_LENGTH:]
        self._peak_rate = max(self._peak_rate, outcome.learning_rate)
        return TrainingSignals(
            epoch=outcome.epoch,
            train_loss=outcome.train_loss,
            validation_loss=loss,
            train_metric=outcome.train_metric,
            metric=metric,
            loss_delta=loss_delta,
            metric_delta=metric_delta,
            best_loss=self._best_loss,
            best_metric=self._best_metric,
            plateau_epochs=self._plateau,
            is_host_stable=self._is_stable,
            host_gradient_norm=outcome.host_gradient_norm,
            learning_rate_fraction=outcome.learning_rate / self._peak_rate if self._peak_rate else 0.0,
            loss_history=tuple(self._losses),
            metric_history=tuple(self._metrics),
            has_history=True,
        )

    def _is_calm(self, loss: float) -> bool:
        if not self._losses:
            return False
        previous = self._losses[-1]
        start = self._best_loss if self._config.settles_against == "best" else previous
        has_settled = start - loss < self._config.stable_improvement * start
        return has_settled and loss < self._config.max_loss_ratio * previous

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        has_best = bool(self._losses)
        return {
            "losses": list(self._losses),
            "metrics": list(self._metrics),
            "best_loss": self._best_loss if has_best else None,
            "best_metric": self._best_metric if has_best else None,
            "plateau": self._plateau,
            "calm": self._calm,
            "is_stable": self._is_stable,
            "peak_rate": self._peak_rate,
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        try:
            losses, metrics = _read_numbers(state["losses"]), _read_numbers(state["metrics"])
            best = [state["best_loss"], state["best_metric"]] if losses else [math.inf, -math.inf]
            best_loss, best_metric = _read_numbers(best)
            plateau, calm = int(str(state["plateau"])), int(str(state["calm"]))
            is_stable, peak_rate = state["is_stable"], float(str(state["peak_rate"]))
            if not isinstance(is_stable, bool) or len(losses) != len(metrics):
                raise ValueError(f"is_stable={is_stable!r}, {len(losses)} losses, {len(metrics)} metrics")
        except (KeyError, TypeError, ValueError) as error:
            raise ForeignCheckpointError(f"saved signal tracker is malformed: {error!r}") from error
        self._losses, self._metrics = losses, metrics
        self._best_loss, self._best_metric = best_loss, best_metric
        self._plateau, self._calm = plateau, calm
        self._is_stable, self._peak_rate = is_stable, peak_rate


def _read_numbers(saved: JsonValue) -> list[float]:
    if not isinstance(saved, list):
        raise TypeError(f"expected a list of numbers, found {saved!r}")
    return [float(str(value)) for value in saved]
