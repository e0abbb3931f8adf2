"""Outcomes to signals: deltas, plateaus, a latch for stability. One sign rule: positive means better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import HISTORY_LENGTH, ConfigError, EpochOutcome, JsonValue, TrainingSignals


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SignalTrackerConfig:
    """When a host counts as stuck, and when as settled."""

    plateau_gain: float = 0.005
    """Metric gain in one interval below which a plateau goes on, in metric units, >= 0: half a point."""
    stable_improvement: float = 0.03
    """Relative fall of the validation loss below which an interval counts as calm, in (0, 1)."""
    stable_epochs: int = 3
    """Calm intervals in a row after which the host is stable for good, >= 0; 0 = at once."""
    max_loss_ratio: float = 1.5
    """Loss over the previous one above which an interval is never calm, > 1."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if not (math.isfinite(self.plateau_gain) and self.plateau_gain >= 0):
            raise ConfigError(f"tracker.plateau_gain={self.plateau_gain}: must be finite and >= 0")
        if not 0 < self.stable_improvement < 1:
            raise ConfigError(f"tracker.stable_improvement={self.stable_improvement}: must be in (0, 1)")
        if self.stable_epochs < 0:
            raise ConfigError(f"tracker.stable_epochs={self.stable_epochs}: must be >= 0")
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
        """Take one interval and return the signals after it."""
        config = self._config
        loss, metric = outcome.validation_loss, outcome.metric
        previous_loss = self._losses[-1] if self._losses else loss
        previous_metric = self._metrics[-1] if self._metrics else metric
        has_previous = bool(self._losses)
        loss_delta, metric_delta = previous_loss - loss, metric - previous_metric
        self._plateau = self._plateau + 1 if has_previous and metric_delta < config.plateau_gain else 0
        relative = loss_delta / abs(previous_loss) if previous_loss else 0.0
        is_calm = (
            has_previous
            and relative < config.stable_improvement
            and loss < config.max_loss_ratio * max(previous_loss, 0.0)
        )
        self._calm = self._calm + 1 if is_calm else 0
        self._is_stable = self._is_stable or self._calm >= config.stable_epochs
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
        """Put back what `state` returned."""
        losses, metrics = state["losses"], state["metrics"]
        assert isinstance(losses, list)
        assert isinstance(metrics, list)
        self._losses, self._metrics = list(losses), list(metrics)
        best_loss, best_metric = state["best_loss"], state["best_metric"]
        self._best_loss = math.inf if best_loss is None else float(str(best_loss))
        self._best_metric = -math.inf if best_metric is None else float(str(best_metric))
        self._plateau = int(str(state["plateau"]))
        self._calm = int(str(state["calm"]))
        self._is_stable = bool(state["is_stable"])
        self._peak_rate = float(str(state["peak_rate"]))
