"""Settings of the plant: how seeds live. Standard library only, so that a command line can show them fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError

INCUBATION_NAMES = ("shadow", "residual", "straight_through")
"""Incubation objectives by name; see `kasmina.incubation`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Thresholds of the quality gates G0 to G5; each is asked in `kasmina.gates`."""

    min_incubation_epochs: int = 2
    """G2: intervals in TRAINING, >= 1. Two give the shadow gain one interval to settle after warm-up."""
    min_gradient_ratio: float = 0.05
    """G2: seed gradient RMS over host gradient RMS that counts as evidence of learning, in [0, 1]. A
    healthy newborn stands near 1; below this floor nothing reaches it."""
    is_evidence_required: bool = True
    """G2 and G5: whether a seed must show what it is worth; off only for a dry run, which tries paths."""
    min_probation_epochs: int = 2
    """G4: intervals in PROBATIONARY, >= 1. One interval cannot show stability."""
    min_measurements: int = 2
    """G4: contribution measurements in PROBATIONARY, >= 1. Pooling halves the noise of a lucky one."""
    max_metric_drop: float = 0.02
    """G4: fall of the validation metric since probation began, in metric units, >= 0. About two standard
    errors of an accuracy on 1,000 items."""
    keep_errors: float = 2.5
    """G5: the contribution must exceed this many standard errors, in [0, 5]. A seed is looked at several
    times; with one error each 14 to 32 in 100 worthless seeds get through, with 2.5 at most 3."""
    keep_threshold: float | None = None
    """G5: smallest contribution worth keeping, in the gate metric's units, >= 0; None = the task's own."""
    max_contribution_age_epochs: int = 1
    """G5: oldest measurement that still counts, in intervals, >= 0. One, because every interval
    measures anew: an older one means that measuring failed."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name in ("min_incubation_epochs", "min_probation_epochs", "min_measurements"):
            require_range("gates", name, getattr(self, name), 1, math.inf)
        require_range("gates", "min_gradient_ratio", self.min_gradient_ratio, 0.0, 1.0)
        require_range("gates", "max_metric_drop", self.max_metric_drop, 0.0, math.inf)
        require_range("gates", "keep_errors", self.keep_errors, 0.0, 5.0)
        require_range("gates", "max_contribution_age_epochs", self.max_contribution_age_epochs, 0, math.inf)
        if self.keep_threshold is not None:
            require_range("gates", "keep_threshold", self.keep_threshold, 0.0, math.inf)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleConfig:
    """How seeds move through their stages."""

    incubation: str = "shadow"
    """Objective in TRAINING: "shadow", "residual" or "straight_through". The first two are bounded and
    equally accurate; "shadow", because under it no seed died while it incubated (decision 0009)."""
    residual_scale: float = 0.5
    """Objective "residual": size of the target relative to the features' spread, > 0. Half a spread is a
    visible and still gentle change."""
    residual_weight: float = 10.0
    """Objective "residual": weight of the regression loss, > 0; brings its gradient to a loss's size."""
    is_germinated_automatic: bool = True
    """Whether GERMINATED > TRAINING happens by itself at the next epoch: nothing is decided there."""
    is_training_automatic: bool = False
    """Whether TRAINING > BLENDING happens by itself once G2 passes; off, because it is a decision."""
    is_blending_automatic: bool = True
    """Whether BLENDING > PROBATIONARY happens by itself once G3 passes: a finished ramp is a fact."""
    embargo_epochs: int = 3
    """Intervals in EMBARGOED, >= 0; long enough that cull-and-germinate cycles cannot be farmed."""
    reset_epochs: int = 1
    """Intervals in RESETTING, >= 0; one, so that the end of a cooldown is seen before the slot is free
    again."""
    min_cull_age_epochs: int = 2
    """Youngest age at which a policy may cull, in intervals, >= 0: younger seeds have shown nothing."""
    probation_timeout_epochs: int | None = None
    """Intervals in PROBATIONARY after which a seed is culled by itself, >= 1; None = the policy decides."""
    max_live_seeds: int | None = None
    """Live seeds allowed at once, >= 1; None = one per slot: each is measured with the others
    in place."""
    max_added_params_fraction: float | None = None
    """Parameters that seeds may add, as a fraction of the host's, >= 0; None = unlimited."""
    is_sequential: bool = False
    """Whether germination waits until no seed incubates; off, because slots are independent."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.incubation not in INCUBATION_NAMES:
            raise ConfigError(
                f"lifecycle.incubation={self.incubation!r}: must be one of {', '.join(INCUBATION_NAMES)}"
            )
        for name in ("residual_scale", "residual_weight"):
            require_range("lifecycle", name, getattr(self, name), 1e-9, math.inf)
        for name in ("embargo_epochs", "reset_epochs", "min_cull_age_epochs"):
            require_range("lifecycle", name, getattr(self, name), 0, math.inf)
        for name in ("probation_timeout_epochs", "max_live_seeds"):
            if (value := getattr(self, name)) is not None:
                require_range("lifecycle", name, value, 1, math.inf)
        if self.max_added_params_fraction is not None:
            require_range(
                "lifecycle", "max_added_params_fraction", self.max_added_params_fraction, 0, math.inf
            )


def require_range(section: str, name: str, value: float, low: float, high: float) -> None:
    """Refuse a setting outside [low, high] or not finite.

    Raises:
        ConfigError: Naming section, field, value and range.
    """
    if not (math.isfinite(value) and low <= value <= high):
        bound = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ConfigError(f"{section}.{name}={value}: must be finite and {bound}")
