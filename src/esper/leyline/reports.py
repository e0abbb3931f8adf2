"""One slot as everything outside the plant sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline.outcomes import Estimate
from esper.leyline.stages import SeedStage


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """A slot and its seed, read-only. Ages count decision intervals; None always means "not measured"."""

    slot: str
    layout: str
    """`Layout` value: "2d", "sequence" or "flat"."""
    num_channels: int
    stage: SeedStage = SeedStage.DORMANT
    previous_stage: SeedStage | None = None
    epochs_in_stage: int = 0
    epochs_in_previous_stage: int = 0
    seed_age_epochs: int = 0
    """Intervals since germination (0 for an empty slot)."""
    seed_id: str | None = None
    """Unique within a run, e.g. "block2#1"."""
    blueprint: str | None = None
    family: str | None = None
    blend: str | None = None
    num_params: int = 0
    """Parameters of the seed that lives here."""
    flops_per_item: int = 0
    """Forward FLOPs per sample of that seed."""
    alpha: float = 0.0
    alpha_target: float = 1.0
    tempo_epochs: int = 0
    is_ramping: bool = False
    is_cull_pending: bool = False
    """A cull was accepted and alpha is on its way down."""
    contribution: Estimate | None = None
    """Pooled over the present stage's measurements."""
    contribution_age_epochs: int | None = None
    """Intervals since the last measurement; 0 = this interval."""
    contribution_velocity: float | None = None
    """Smoothed change of the contribution per interval."""
    credit: float | None = None
    """min(contribution, metric now - metric at blend start): a seed that only made the host depend on it
    has a high contribution and no credit."""
    shadow_gain: Estimate | None = None
    shadow_gain_age_epochs: int | None = None
    gradient_ratio: float | None = None
    gradient_norm: float | None = None
    is_healthy: bool = True
    """No non-finite gradient and no skipped batch in the last interval."""
    alpha_slope: float | None = None
    """dL/d(alpha) of a live seed on held-out items when it was scored; negative = opening further helps."""
    alpha_best: float | None = None
    """Alpha in [0, 1] at which a parabola through the held-out losses of a live seed is lowest."""
    alpha_gain: float | None = None
    """Fall of the loss from alpha 0 to there, by the same parabola (>= 0)."""
    blueprint_gains: Mapping[str, float] | None = None
    """Empty slot: blueprint -> share of the functional gradient's energy that its features explain,
    cross-validated (about 0 = nothing, may be slightly negative); blueprints without a score are absent."""
    gradient_energy: float | None = None
    """E|dL/dh|^2 per item at this slot; share times energy compares blueprints over slots."""
    linear_share: float | None = None
    """Share of that energy that a linear map of the slot's own features explains: near 1 = train on."""
    saturation: float | None = None
    """Effective rank of the slot's features over their channels, in [0, 1]: near 1 = channels are full."""
    scores_age_epochs: int | None = None
    """Intervals since the slot was scored; 0 = this interval."""
    advance_refusal: str | None = "no seed"
    """Why ADVANCE would be refused now; None = the next gate passes."""
    fossilize_refusal: str | None = "no seed"
    """Why FOSSILIZE would be refused now; None = gates G4 and G5 pass."""
    cull_reason: str | None = None
    """Why the last seed of this slot was removed."""
