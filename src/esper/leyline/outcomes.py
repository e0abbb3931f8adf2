"""What one decision interval led to: losses, the metric, contributions with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A metric's name, direction and scale; inside the system every metric is turned higher-is-better.

    Example:
        MetricSpec(name="accuracy", is_higher_better=True, scale=0.05)
    """

    name: str
    """"accuracy", "loss", "perplexity", ..."""
    is_higher_better: bool
    scale: float
    """A difference that is large for this task, in metric units (> 0); it makes features scale-free."""
    is_exponential: bool = False
    """Whether a reader expects exp of the raw value, as perplexity is that of a loss in nats."""

    def __post_init__(self) -> None:
        """Check the scale.

        Raises:
            ValueError: If `scale` is not finite and positive.
        """
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"MetricSpec.scale={self.scale}: must be finite and > 0")

    def shown(self, inside: float) -> float:
        """Turn an inside value into what a reader expects; an exponential is cut off at exp(700)."""
        raw = inside if self.is_higher_better else -inside
        return math.exp(min(raw, 700.0)) if self.is_exponential else raw


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over paired per-item differences with its standard error.

    Example:
        Estimate(mean=0.012, standard_error=0.004, num_items=360, num_intervals=2)
    """

    mean: float
    """In metric units, higher is better; positive = the seed helps."""
    standard_error: float
    """Of the mean, over items (>= 0)."""
    num_items: int
    num_intervals: int = 1
    """How many measurements were pooled per item before the mean was taken."""

    def lower(self, num_errors: float = 1.0) -> float:
        """Mean minus `num_errors` standard errors: the bound for keeping."""
        return self.mean - num_errors * self.standard_error

    def upper(self, num_errors: float = 1.0) -> float:
        """Mean plus `num_errors` standard errors: the bound for culling."""
        return self.mean + num_errors * self.standard_error


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOutcome:
    """What was measured about one seed in one interval."""

    contribution: Estimate | None = None
    """Metric with every seed on minus metric with this seed's alpha at 0 (paired); None = not measured."""
    shadow_gain: Estimate | None = None
    """For an isolated seed: metric with it at full alpha minus metric as it is (paired)."""
    gradient_ratio: float | None = None
    """(seed gradient RMS) / (host gradient RMS), mean over the interval's batches; None = no gradient yet."""
    gradient_norm: float | None = None
    """Mean L2 norm of the seed's unscaled gradient over the interval."""
    has_finite_gradients: bool = True
    num_skipped_batches: int = 0
    """Batches in which this seed's update was skipped for a non-finite gradient."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOutcome:
    """One decision interval in numbers. Losses are means per item (nats for classification)."""

    epoch: int
    """Intervals finished so far, this one included (1 after the first)."""
    train_loss: float
    train_metric: float
    """Higher is better; over the training items of this interval, as they were seen."""
    validation_loss: float
    metric: float
    """Validation metric, higher is better."""
    raw_metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics as a reader expects them, e.g. {"accuracy": 0.91}."""
    host_gradient_norm: float = 0.0
    """Mean L2 norm of the host's unscaled gradient over the interval."""
    learning_rate: float = 0.0
    """Host learning rate at the last batch."""
    num_train_items: int = 0
    num_validation_items: int = 0
    num_batches: int = 0
    num_skipped_batches: int = 0
    slots: Mapping[str, SlotOutcome] = field(default_factory=dict)
    flops: Mapping[str, int] = field(default_factory=dict)
    """FLOPs spent in this interval by kind (see the ledger)."""
    seconds: float = 0.0
    """Wall-clock of the interval; a display value, outside every equality."""


@final
class VerdictKind:
    """Names of what the governor can find, and of an interval that was lost with the process it ran in."""

    HEALTHY = "healthy"
    NON_FINITE = "non_finite"
    DIVERGED = "diverged"
    COLLAPSED = "collapsed_to_chance"
    LOST = "worker_lost"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The governor's judgement of one interval."""

    kind: str = VerdictKind.HEALTHY
    reason: str = ""
    blamed_slot: str | None = None

    @property
    def is_failure(self) -> bool:
        """Whether the interval must be rolled back."""
        return self.kind != VerdictKind.HEALTHY
