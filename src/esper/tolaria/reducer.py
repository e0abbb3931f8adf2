"""The data plane's seam: gradients of one host agreed over ranks, before they are looked at.

The plan comes from the topology, not from which gradients happen to exist. One process reduces nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from esper.leyline import canonical_hash

_HASH_DIGITS = 15


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One parameter that takes part in the reduction."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: str
    """"host" or "seed:<slot>"."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepFlags:
    """What this rank has to say before a step."""

    is_stop_requested: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What all ranks agreed on."""

    is_stop_requested: bool = False


class GradientReducer(Protocol):
    """Sums gradients over ranks in the order of a plan."""

    def replan(self, entries: Sequence[PlanEntry]) -> int:
        """Take a new plan after a change of topology; returns the layout's hash, equal on ranks that agree."""

    def reduce(self, local: StepFlags) -> StepVerdict:
        """Reduce gradients and flags once per step, in the same order on every rank."""


@final
class NoReduce:
    """One process: gradients stay as they are."""

    def replan(self, entries: Sequence[PlanEntry]) -> int:
        """Return the layout's hash."""
        layout = [[e.name, list(e.shape), e.dtype, e.group] for e in entries]
        return int(canonical_hash(layout)[:_HASH_DIGITS], 16)

    def reduce(self, local: StepFlags) -> StepVerdict:
        """Return the local flags."""
        return StepVerdict(is_stop_requested=local.is_stop_requested)
