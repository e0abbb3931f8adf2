"""The host's vital signs as a policy sees them: the full context, and a tuple for the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

HISTORY_LENGTH = 5
"""How many past losses and metrics the signals carry; the encoding's width depends on it."""


@final
class FastTrainingSignals(NamedTuple):
    """The numbers that change every interval, as a flat tuple without history (hot path)."""

    epoch: int
    train_loss: float
    validation_loss: float
    metric: float
    loss_delta: float
    metric_delta: float
    plateau_epochs: int
    is_host_stable: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSignals:
    """Signals after an interval; before the first one the `has_history` flag is False and numbers are 0.

    Sign rule, one for all: a positive delta is an improvement.
    """

    epoch: int = 0
    """Intervals finished."""
    train_loss: float = 0.0
    validation_loss: float = 0.0
    train_metric: float = 0.0
    metric: float = 0.0
    """Validation metric, higher is better."""
    loss_delta: float = 0.0
    """Previous validation loss minus the present one (positive = better)."""
    metric_delta: float = 0.0
    """Present metric minus the previous one (positive = better)."""
    best_loss: float = 0.0
    """Lowest validation loss of the whole run."""
    best_metric: float = 0.0
    """Highest validation metric of the whole run."""
    plateau_epochs: int = 0
    """Intervals in a row whose metric gain stayed under the tracker's threshold."""
    is_host_stable: bool = False
    """Latched once the loss has settled; never unlatched."""
    host_gradient_norm: float = 0.0
    learning_rate_fraction: float = 0.0
    """Present host learning rate over its peak, in [0, 1]."""
    loss_history: tuple[float, ...] = ()
    """Up to `HISTORY_LENGTH` last validation losses, newest last."""
    metric_history: tuple[float, ...] = ()
    """Up to `HISTORY_LENGTH` last validation metrics, newest last."""
    has_history: bool = False

    def fast(self) -> FastTrainingSignals:
        """Return the hot-path tuple."""
        return FastTrainingSignals(
            self.epoch,
            self.train_loss,
            self.validation_loss,
            self.metric,
            self.loss_delta,
            self.metric_delta,
            self.plateau_epochs,
            self.is_host_stable,
        )
