"""Settings of the heuristic policy. Starting values: they are tuned once, on tuning seeds, then fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from esper.leyline import AlphaCurve, BlendForm, ConfigError, Layout, suggest

SLOT_ORDERS = ("rotate", "last", "costliest")
"""How the slot of the next germination is picked among the free ones."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeuristicConfig:
    """When the heuristic grows, keeps and removes. Epochs are decision intervals."""

    patience_epochs: int = 3
    """Intervals without gain after which the host counts as stuck, >= 1: one or two come by chance."""
    first_germination_epoch: int = 5
    """No germination before this interval, >= 0; a host that still learns fast needs no help."""
    germination_interval_epochs: int = 5
    """A germination is due this long after the last one even without a plateau, >= 1: falling learning
    rates can hide a plateau until it is too late to grow."""
    latest_germination_fraction: float = 0.8
    """No germination after this part of the horizon, in (0, 1]; a seed born in the last fifth, at the end of
    the learning-rate decay, has no time to learn."""
    is_stability_required: bool = True
    """Whether the host's loss must have settled first; before that, contributions measure the host."""
    embargo_epochs: int = 0
    """Intervals after any cull without germination anywhere, >= 0; 0: each slot cools down by itself."""
    slot_order: str = "rotate"
    """"rotate" through the slots, "last" = the deepest free one, or "costliest" = where the blueprints on
    offer are largest. Rotating tries every depth."""
    blueprints_2d: tuple[str, ...] = (
        "conv_light",
        "conv_heavy",
        "depthwise",
        "attention",
        "norm",
        "bottleneck",
    )
    """Rotation for 2d slots; ids that do not fit a slot are ignored there, and where none of the list fits,
    everything that does is used in its order. Convolutions first: they add most to small image hosts."""
    blueprints_sequence: tuple[str, ...] = ("mlp", "causal_attention", "mlp_small", "lora", "norm")
    """Rotation for sequence slots; the halves of a transformer block first, then the cheaper ones."""
    blueprints_flat: tuple[str, ...] = ("mlp", "mlp_small", "low_rank")
    """Rotation for flat slots; the wide one first."""
    blend: BlendForm = BlendForm.ADD
    """How a seed's residual enters; plain addition has no further parameters."""
    curve: AlphaCurve = AlphaCurve.LINEAR
    """Shape of every ramp; the plainest one."""
    tempo_epochs: int = 3
    """Length of the blend, >= 1; short beside the horizon and long beside a batch."""
    cull_tempo_epochs: int = 1
    """Length of the ramp down of a culled seed, >= 1; short, since it is unwanted."""
    alpha_target: float = 1.0
    """Where the first ramp ends, in (0, 1]; below 1 the seed rests there and then gets a second ramp to 1."""
    min_incubation_epochs: int = 3
    """Intervals in TRAINING before a seed is blended in, >= 1, once its gate passes: one more than the gate
    asks for, since a seed that knows little disturbs."""
    max_incubation_epochs: int = 10
    """Intervals in TRAINING after which a seed whose gate still refuses is culled, >= the minimum."""
    min_judged_epochs: int = 2
    """Intervals in BLENDING or PROBATIONARY before a contribution may condemn a seed, >= 1; the first ones
    are measured while everything still moves."""
    max_probation_epochs: int = 10
    """Intervals in PROBATIONARY after which a seed that may not be kept is culled, >= 1; pooled intervals
    would have shown a real gain by then."""
    cull_errors: float = 1.0
    """A contribution or shadow gain condemns when mean + this many standard errors is < 0, in [0, 5];
    one: a seed that was culled wrongly can be planted again."""
    ransomware_threshold: float = 0.001
    """Contribution above which a seed without credit counts as one that only made the host depend on it, in
    metric units, >= 0; the least that is worth arguing about."""
    penalty_per_cull: float = 2.0
    """Added to a blueprint's penalty for each cull, >= 0."""
    penalty_decay: float = 0.5
    """Factor on all penalties at each decision to germinate, in [0, 1); a half forgets a failure within
    a few births, because a grown host is another host."""
    penalty_floor: float = 0.1
    """Penalty below which it is dropped, >= 0."""
    penalty_limit: float = 3.0
    """Penalty from which on a blueprint is skipped, > 0: two culls with at most one germination between."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low in _LOWEST:
            if getattr(self, name) < low:
                raise ConfigError(f"heuristic.{name}={getattr(self, name)}: must be >= {low}")
        for name, bound, is_allowed in self._bounded():
            if not (math.isfinite(getattr(self, name)) and is_allowed):
                raise ConfigError(f"heuristic.{name}={getattr(self, name)}: must be finite and {bound}")
        if self.max_incubation_epochs < self.min_incubation_epochs:
            raise ConfigError(
                f"heuristic.max_incubation_epochs={self.max_incubation_epochs}: must be >= "
                f"min_incubation_epochs={self.min_incubation_epochs}"
            )
        if self.slot_order not in SLOT_ORDERS:
            raise ConfigError(
                f"heuristic.slot_order={self.slot_order!r}: {suggest(self.slot_order, SLOT_ORDERS)}"
            )
        for layout in Layout:
            names = self.rotation_for(layout.value)
            if len(set(names)) != len(names):
                raise ConfigError(f"heuristic.blueprints_{layout.value}={names}: must hold no id twice")

    def _bounded(self) -> tuple[tuple[str, str, bool], ...]:
        return (
            ("latest_germination_fraction", "in (0, 1]", 0 < self.latest_germination_fraction <= 1),
            ("alpha_target", "in (0, 1]", 0 < self.alpha_target <= 1),
            ("cull_errors", "in [0, 5]", 0 <= self.cull_errors <= 5),
            ("ransomware_threshold", ">= 0", self.ransomware_threshold >= 0),
            ("penalty_per_cull", ">= 0", self.penalty_per_cull >= 0),
            ("penalty_decay", "in [0, 1)", 0 <= self.penalty_decay < 1),
            ("penalty_floor", ">= 0", self.penalty_floor >= 0),
            ("penalty_limit", "> 0", self.penalty_limit > 0),
        )

    def rotation_for(self, layout: str) -> tuple[str, ...]:
        """Return the configured blueprint ids of a layout, () for one that has no list."""
        lists = {
            Layout.MAP_2D.value: self.blueprints_2d,
            Layout.SEQUENCE.value: self.blueprints_sequence,
            Layout.FLAT.value: self.blueprints_flat,
        }
        return lists.get(layout, ())


_LOWEST = (
    ("patience_epochs", 1),
    ("first_germination_epoch", 0),
    ("germination_interval_epochs", 1),
    ("embargo_epochs", 0),
    ("tempo_epochs", 1),
    ("cull_tempo_epochs", 1),
    ("min_incubation_epochs", 1),
    ("min_judged_epochs", 1),
    ("max_probation_epochs", 1),
)
