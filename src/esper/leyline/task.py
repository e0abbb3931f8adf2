"""A task as data: shapes, loss kind, metric, horizon and the threshold that a kept seed must pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import final

from esper.leyline.outcomes import MetricSpec


@final
class LossKind(Enum):
    """Which objective a task trains."""

    CLASSIFICATION = "classification"
    """Cross-entropy over `num_classes`."""
    REGRESSION = "regression"
    """Mean squared error."""
    LANGUAGE_MODEL = "language_model"
    """Cross-entropy over the vocabulary at every position."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Static facts of one task.

    Example:
        TaskSpec(name="digits", loss=LossKind.CLASSIFICATION, input_shape=(1, 8, 8), num_outputs=10, ...)
    """

    name: str
    loss: LossKind
    input_shape: tuple[int, ...]
    """Shape of one input as the host receives it, without the batch dimension."""
    num_outputs: int
    """Classes, vocabulary size, or regression outputs."""
    metric: MetricSpec
    horizon_epochs: int
    keep_threshold: float
    """Smallest contribution worth keeping, in units of the metric that gates use (>= 0)."""
    gates_use_loss: bool = False
    """True where the validation split is too small (< 2,000 items) for accuracy differences: contributions
    are then differences of the per-item loss."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: If a count is < 1 or the threshold is negative or not finite.
        """
        if self.num_outputs < 1 or self.horizon_epochs < 1:
            raise ValueError(f"TaskSpec {self.name!r}: num_outputs and horizon_epochs must be >= 1")
        if not (math.isfinite(self.keep_threshold) and self.keep_threshold >= 0):
            raise ValueError(f"TaskSpec {self.name!r}: keep_threshold must be finite and >= 0")

    @property
    def chance_loss(self) -> float:
        """Loss of a uniform guess: ln(num_outputs) for classification and language, 1 for regression."""
        if self.loss is LossKind.REGRESSION or self.num_outputs < 2:
            return 1.0
        return math.log(self.num_outputs)
