"""What the seeds are worth while nobody has decided yet: measured, doubted, capped, and paid once.

A contribution says what removing a seed would cost now, which is not what it brought: a host can come to
depend on a seed that made nothing better. So a seed is believed only as far as three witnesses agree: the
lower bound of its contribution, its credit, and the lead of the whole network over the host that never grew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from esper.leyline import Estimate, JsonValue, SeedStage
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.gain import compute_lead
from esper.simic.rewards.levels import Side, clip_level, compute_ratio
from esper.simic.rewards.rubric import RewardTermSpec, TermMemory, read_number


@final
class Contribution:
    """Pays the change of what the seeds are believed to be worth; holding a level pays nothing."""

    def __init__(self, bound: float, errors: float) -> None:
        """Bind the limits.

        Args:
            bound: Largest worth and largest harm of all seeds together, metric scales, > 0.
            errors: Standard errors by which a contribution is doubted, >= 0.
        """
        self._bound = bound
        self._errors = errors
        self.spec = RewardTermSpec(
            name="contribution",
            formula=f"change of [min(sum over seeds of max(0, min(contribution - {errors:g} s.e., credit)), "
            f"max(0, lead)) + sum of min(0, contribution + {errors:g} s.e.)] / scale; a fossil keeps what it "
            "was worth when it was kept, a culled seed gives all of it back",
            unit="metric scales",
            low=-2.0 * bound,
            high=2.0 * bound,
            why="An early word on seeds in probation. A seed that only made the host depend on it has no "
            "credit and no lead, so it earns nothing; waiting and fossils earn nothing more.",
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`; remembers what each seed was worth and what has been paid."""
        saved = memory.get("worth")
        worth = self._compute_worths(facts, saved if isinstance(saved, Mapping) else {})
        lead = compute_lead(Side(facts.after, facts.never_metric_after, facts.is_last))
        believed = min(
            sum(value for value in worth.values() if value > 0.0), clip_level(lead, 0.0, self._bound)
        )
        harm = sum(value for value in worth.values() if value < 0.0)
        level = clip_level(believed + harm, -self._bound, self._bound)
        paid = read_number(memory, "paid", 0.0)
        if facts.is_failure:
            level = min(level, paid, 0.0)
        memory["paid"], memory["worth"] = level, worth
        return level - paid

    def _compute_worths(self, facts: StepFacts, known: Mapping[str, JsonValue]) -> dict[str, float]:
        """Seed id -> worth in metric scales; a seed without a measurement keeps the worth that is known."""
        worths: dict[str, float] = {}
        for slot in facts.after.slots:
            seed = slot.seed_id
            if seed is None or not slot.stage.affects_output:
                continue
            is_settled = slot.stage is SeedStage.FOSSILIZED and seed in known
            if slot.contribution is None or is_settled:
                worth = read_number(known, seed, 0.0)
            else:
                worth = self._judge(slot.contribution, slot.credit, facts.after.metric.scale)
            worths[seed] = min(worth, 0.0) if slot.is_cull_pending else worth
        return worths

    def _judge(self, estimate: Estimate, credit: float | None, scale: float) -> float:
        """Return what the witnesses agree on; a measurement that is not finite says nothing."""
        low, high = estimate.lower(self._errors), estimate.upper(self._errors)
        if not (math.isfinite(low) and math.isfinite(high)):
            return 0.0
        if low > 0.0 and credit is not None and math.isfinite(credit):
            return clip_level(compute_ratio(min(low, credit), scale), 0.0, self._bound)
        return clip_level(compute_ratio(min(high, 0.0), scale), -self._bound, 0.0)
