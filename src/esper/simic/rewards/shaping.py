"""Shaping by a potential of the stages: it tells a learner which way is forward and changes nothing else.

F = gamma Phi(s') - Phi(s) sums up, discounted, to gamma^T Phi(s_T) - Phi(s_0) along any path whatever (Ng,
Harada and Russell, 1999), and Phi is 0 where an episode ends, so no policy gains on another by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import final

from esper.leyline import ConfigError, Observation, SeedStage, SlotReport
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.rubric import RewardTermSpec, TermMemory

STAGE_POTENTIALS: Mapping[SeedStage, float] = MappingProxyType(
    {
        SeedStage.DORMANT: 0.0,
        SeedStage.GERMINATED: 0.1,
        SeedStage.TRAINING: 0.2,
        SeedStage.BLENDING: 0.4,
        SeedStage.PROBATIONARY: 0.7,
        SeedStage.FOSSILIZED: 1.0,
        SeedStage.CULLED: 0.0,
        SeedStage.EMBARGOED: 0.0,
        SeedStage.RESETTING: 0.0,
    }
)
"""Rises along the path that keeps a seed, with the largest steps where a decision is due. Time spent in a
stage does not count: a potential that grew with it would make moving on a loss."""


@final
class StagePotential:
    """Pays for progress along the life of a seed, and takes all of it back at a cull and at the end."""

    def __init__(self, discount: float) -> None:
        """Bind gamma, which must be the learner's own, in [0, 1].

        Raises:
            ConfigError: If it is out of range.
        """
        if not 0.0 <= discount <= 1.0:
            raise ConfigError(f"discount={discount}: must be in [0, 1] and the learner's gamma")
        self._discount = discount
        stages = ", ".join(f"{stage.value} {value:g}" for stage, value in STAGE_POTENTIALS.items() if value)
        self.spec = RewardTermSpec(
            name="stage_potential",
            formula=f"gamma Phi(after) - Phi(before); Phi = mean over slots of: {stages}, else 0; 0 for a "
            "seed on its way out and after the last step",
            unit="1",
            low=-1.0,
            high=1.0,
            why="A guide for early learning that leaves the order of policies as it is: a cull forfeits what "
            "was paid, and the last step pays -Phi(before).",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`; remembers nothing, because a potential depends on the state alone."""
        after = 0.0 if facts.is_last else compute_potential(facts.after)
        return compute_shaping(self._discount, compute_potential(facts.before), after)


def compute_shaping(discount: float, before: float, after: float) -> float:
    """Return gamma Phi(s') - Phi(s); the caller passes 0 for a state in which an episode ended."""
    return discount * after - before


def compute_potential(observation: Observation) -> float:
    """Return Phi of a state in [0, 1]: the mean over slots, 0 without slots."""
    if not observation.slots:
        return 0.0
    return sum(_compute_slot_potential(slot) for slot in observation.slots) / len(observation.slots)


def _compute_slot_potential(slot: SlotReport) -> float:
    return 0.0 if slot.is_cull_pending else STAGE_POTENTIALS[slot.stage]
