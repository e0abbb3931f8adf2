"""Settings of growth in somebody else's loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from esper.kasmina import GateConfig, LifecycleConfig
from esper.leyline import ConfigError, MetricSpec
from esper.tolaria.offers import Budget
from esper.tolaria.signals import SignalTrackerConfig


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How one model grows in a loop that we do not run."""

    metric: MetricSpec
    """What `observe` is given, its direction and scale; contributions are measured in it."""
    blueprints: tuple[str, ...] = ()
    """Ids or families on offer; empty = every one that fits, so that the policy chooses."""
    budget: Budget = field(default_factory=Budget)
    """How far the model may grow."""
    horizon: int | None = None
    """Intervals that the loop runs, >= 1; None = not known: policies then plan as if there were no end."""
    is_scale_known: bool = True
    """Whether the metric's scale is a fact; if not, a tenth of the first value observed is taken for it, and
    thresholds in metric units follow."""
    keep_threshold: float = 0.0
    """Smallest contribution worth keeping, in units of the metric, >= 0; 0, because only the loop's owner
    knows what a point of their metric is worth: standard errors decide alone."""
    accumulation: int = 1
    """Backward passes per optimiser step, >= 1; one, unless the loop adds gradients up: it must say so,
    because nothing else tells."""
    newborn_warmup_batches: int = 200
    """Optimiser steps over which a newborn's learning rate rises, >= 0; the same as in our own loop."""
    calibration_items: int = 512
    """Training items kept to re-estimate normalisation statistics on, >= 2; 512 are several batches and
    small beside a loader's own memory."""
    seed: int = 0
    """Of the weights of new seeds, >= 0; the loop's own random stream is never used for them."""
    lifecycle: LifecycleConfig = field(default_factory=lambda: LifecycleConfig(incubation="residual"))
    """How seeds move; the residual objective, because the loop's loss is not ours to call. "shadow" where a
    loss function is handed over."""
    gates: GateConfig = field(default_factory=GateConfig)
    """Thresholds of the quality gates."""
    tracker: SignalTrackerConfig = field(default_factory=lambda: SignalTrackerConfig(settles_against="best"))
    """How plateaus and stability are told; against the best loss, because rates and batches that are not ours
    may make the loss go up and down for as long as the loop runs."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        low = {"accumulation": 1, "newborn_warmup_batches": 0, "calibration_items": 2}
        for name, bound in low.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"loop.{name}={getattr(self, name)}: must be >= {bound}")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(f"loop.horizon={self.horizon}: must be >= 1, or None where it is not known")
        if not 0 <= self.keep_threshold < float("inf"):
            raise ConfigError(f"loop.keep_threshold={self.keep_threshold}: must be finite and >= 0")
        if self.lifecycle.incubation == "straight_through":
            raise ConfigError(
                "lifecycle.incubation='straight_through': in a loop of your own seeds learn by 'residual', "
                "which asks nothing of the loop, or by 'shadow', which asks for its loss function"
            )
