"""What a policy answered, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from esper.leyline.actions import WAIT, Action


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a policy saw when it decided; optional, for inspection only."""

    observation: Mapping[str, float] = field(default_factory=dict)
    """See `DecisionMade.observation`."""
    masks: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """Head name -> legality of each index, given operation and slot."""
    probabilities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Head name -> probability of each index."""
    value: float | None = None
    """Critic's estimate of the return from here."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Named scores behind a rule, e.g. {"block2/conv_light": 0.013}."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An action with its reason.

    Example:
        Decision(action=WAIT, reason="no slot is free", confidence=1.0)
    """

    action: Action = WAIT
    reason: str = ""
    """One short factual sentence with numbers."""
    confidence: float = 1.0
    """In [0, 1]."""
    evidence: Evidence | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What really happened; a refused action changed nothing and counts as WAIT."""

    requested: Action
    effective: Action
    """Equal to `requested`, or WAIT when it was refused."""
    refusal: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the request was answered with WAIT."""
        return self.refusal is not None
