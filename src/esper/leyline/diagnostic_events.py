"""Events of diagnostics: what was measured of a host while it trained, and signs that it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from esper.leyline.events import Event


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsMeasured(Event):
    """Gradients of one interval, before clipping; means over the batches that were looked at."""

    profile: str
    """Telemetry profile in force in this interval; a red flag may have raised it."""
    num_batches: int
    """Looked at."""
    health: float
    """In [0, 1]; 1 = nothing wrong."""
    layers: Mapping[str, float]
    """Host layer -> L2 norm."""
    seeds: Mapping[str, float] = field(default_factory=dict)
    """Slot -> L2 norm of its seed's gradient."""
    vanishing: tuple[str, ...] = ()
    """Host layers with a norm under 1e-7 in more than half of the batches."""
    exploding: tuple[str, ...] = ()
    """Host layers with a norm over 1e3, or none that is a number, in more than 1 % of them."""
    quantiles: Mapping[str, float] = field(default_factory=dict)
    """Fraction as text, e.g. "0.50" -> quantile of the size of single numbers, host and seeds together."""
    leaks: Mapping[str, float] = field(default_factory=dict)
    """Slot of an isolated seed -> norm of what passed between it and the host; 0 = nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsMeasured(Event):
    """Weights after an interval, by host layer and by slot ("seed:block1")."""

    norms: Mapping[str, float]
    drift: Mapping[str, float]
    """Distance from where they were, over the norm that they had there."""
    since_epoch: Mapping[str, int]
    """When that was: 0 = the host's birth; else the birth of a seed, or the first look."""
    effective_ranks: Mapping[str, float] = field(default_factory=dict)
    """Of matrices and kernels, by parameter: from 1 to the smaller side."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClassesMeasured(Event):
    """A classifier on the validation split, class by class."""

    num_items: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    """None = no item of the class."""
    loss: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...] = ()
    """Row = true class, column = guess; empty where it is not kept."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SharpnessMeasured(Event):
    """How much the loss moves when the weights do: mean |L(w + sigma N) - L(w)| / sigma."""

    sharpness: float
    loss: float
    """L(w) on the same items."""
    sigma: float
    num_draws: int
    num_items: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RedFlagRaised(Event):
    """A sign of trouble began to show; told again only after it was gone."""

    name: str
    value: float
    threshold: float
    where: str = ""
    """Layers, slot or class; empty = the whole host."""
    advice: str = ""
    raised_to: str = ""
    """Profile in force from the next interval on because of it; empty = as before."""
    raised_epochs: int = 0


DIAGNOSTIC_EVENTS: tuple[type[Event], ...] = (
    GradientsMeasured,
    WeightsMeasured,
    ClassesMeasured,
    SharpnessMeasured,
    RedFlagRaised,
)
"""Every event here; none of them is part of what a run comes to."""
DIAGNOSTIC_KINDS = frozenset(kind.__name__ for kind in DIAGNOSTIC_EVENTS)
"""Their names: a run under another telemetry profile has others, and is the same run."""
