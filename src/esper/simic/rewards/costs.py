"""Prices of acting, of not deciding, of culling too soon, of breaking the host; none is ever a bonus."""

from __future__ import annotations

from typing import final

from esper.leyline import LifecycleOp, SeedStage, SlotReport
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.rubric import RewardTermSpec, TermMemory

_FREE = (LifecycleOp.WAIT, LifecycleOp.FOSSILIZE)
_INDECISION_RAMP_EPOCHS = 10
"""Intervals over which the price of indecision rises to its full height."""


@final
class GovernorPenalty:
    """The price of a host that failed."""

    def __init__(self) -> None:
        """Bind nothing."""
        self.spec = RewardTermSpec(
            name="governor",
            formula="-1 if the governor found the interval unhealthy, else 0",
            unit="1",
            low=-1.0,
            high=0.0,
            why="A diverged host is worth nothing. It is a moderate price, because a huge one would drown "
            "the differences that decide about ordinary growth; gains are forfeited besides.",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`."""
        return -1.0 if facts.is_failure else 0.0


@final
class Intervention:
    """A small price for every operation that was carried out, but for keeping a seed."""

    def __init__(self) -> None:
        """Bind nothing."""
        self.spec = RewardTermSpec(
            name="intervention",
            formula="-1 for an operation other than WAIT and FOSSILIZE that was carried out, else 0",
            unit="1",
            low=-1.0,
            high=0.0,
            why="Of two ways to the same network the one with fewer operations is better; it also makes "
            "retargets and cycles of germinating and culling cost something by themselves. Keeping is free: "
            "it changes no network, and under a discount a price on it would be a reason to put it off.",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`; a refused operation counts as WAIT."""
        return 0.0 if facts.result.effective.op in _FREE else -1.0


@final
class YoungCull:
    """The price of culling a seed before it could show anything."""

    def __init__(self, epochs: int) -> None:
        """Bind the age in intervals from which culling is free, >= 0."""
        self._epochs = epochs
        self.spec = RewardTermSpec(
            name="young_cull",
            formula=f"-1 for a cull by the policy of a seed younger than {epochs} intervals, else 0",
            unit="1",
            low=-1.0,
            high=0.0,
            why="Germinating and culling at once is a way to look busy. It acts only where a task lets seeds "
            "be culled younger than this.",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`; culls at the horizon or by the governor are not the policy's."""
        action = facts.result.effective
        if action.op is not LifecycleOp.CULL:
            return 0.0
        ages = [slot.seed_age_epochs for slot in facts.before.slots if slot.slot == action.slot]
        return -1.0 if any(age < self._epochs for age in ages) else 0.0


@final
class Indecision:
    """The price of a seed that could be kept, is not, and is not removed either."""

    def __init__(self, patience_epochs: int) -> None:
        """Bind the intervals of probation that are free, >= 0."""
        self._patience = patience_epochs
        self.spec = RewardTermSpec(
            name="indecision",
            formula=f"-min(1, (intervals in probation - {patience_epochs}) / {_INDECISION_RAMP_EPOCHS}) of "
            "the seed that has waited longest among those whose gates would let it be kept, else 0",
            unit="1",
            low=-1.0,
            high=0.0,
            why="Probation is for measuring, not for living. The price rises linearly and is capped, and it "
            "is the state that is charged: no other operation on the seed, and none elsewhere, dodges it.",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`."""
        could = {slot.seed_id for slot in facts.before.slots if _is_keepable(slot)}
        waits = (
            slot.epochs_in_stage for slot in facts.after.slots if _is_waiting(slot) and slot.seed_id in could
        )
        excess = max(waits, default=0) - self._patience
        return -min(max(excess, 0), _INDECISION_RAMP_EPOCHS) / _INDECISION_RAMP_EPOCHS


def _is_waiting(slot: SlotReport) -> bool:
    return slot.stage is SeedStage.PROBATIONARY and slot.seed_id is not None and not slot.is_cull_pending


def _is_keepable(slot: SlotReport) -> bool:
    return _is_waiting(slot) and slot.fossilize_refusal is None
