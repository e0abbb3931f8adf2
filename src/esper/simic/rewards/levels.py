"""Quantities of which the change is paid, or the end: either way an episode sums up to last less first.

```
ChangeOf   level now - level paid so far, every step
AtTheEnd   level now - level at the start, on the last step only
```
A level is bounded and higher is better, so both kinds of term are bounded by construction and their sums
agree in every episode, clipped levels included. A host that failed keeps nothing that it had gained, and
what it had lost stays lost: failing is no way out.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, final

from esper.leyline import Observation
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.rubric import RewardTermSpec, TermMemory, read_number


class Side(NamedTuple):
    """One side of a step."""

    observation: Observation
    never_metric: float
    """Metric of the host that never grows, at the same interval."""
    is_last: bool
    """Whether nothing follows."""


class Quantity(Protocol):
    """A bounded level of one host at one moment."""

    @property
    def spec(self) -> RewardTermSpec:
        """Name, formula, unit and reason; the range is that of the level."""

    def compute_level(self, side: Side) -> float:
        """Return the level within its range, higher is better; a number that is none counts as the lowest."""


@final
class ChangeOf:
    """Pays what a level has changed by since it was last paid."""

    def __init__(self, quantity: Quantity) -> None:
        """Bind the quantity."""
        level = quantity.spec
        self._quantity = quantity
        width = level.high - level.low
        self.spec = RewardTermSpec(
            name=level.name,
            formula=f"change of [{level.formula}]",
            unit=level.unit,
            low=-width,
            high=width,
            why=level.why,
            pays_without_growth=level.pays_without_growth,
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`."""
        _, paid, level = _follow(self._quantity, facts, memory)
        return level - paid


@final
class AtTheEnd:
    """Pays, on the last step, what a level has changed by over the whole episode."""

    def __init__(self, quantity: Quantity) -> None:
        """Bind the quantity; the term is called "final_" and the quantity's name."""
        level = quantity.spec
        self._quantity = quantity
        width = level.high - level.low
        self.spec = RewardTermSpec(
            name=f"final_{level.name}",
            formula=f"on the last step: [{level.formula}] less the same at the start; else 0",
            unit=level.unit,
            low=-width,
            high=width,
            why=level.why,
            pays_without_growth=level.pays_without_growth,
        )

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """See `RewardTerm.compute`."""
        first, _, level = _follow(self._quantity, facts, memory)
        return level - first if facts.is_last else 0.0


def _follow(quantity: Quantity, facts: StepFacts, memory: TermMemory) -> tuple[float, float, float]:
    """Return the level at the start, the one before this step and the one after it, and remember them."""
    start = read_number(memory, "start", math.nan)
    if math.isnan(start):
        start = quantity.compute_level(Side(facts.before, facts.never_metric_before, False))
    paid = read_number(memory, "level", start)
    level = quantity.compute_level(Side(facts.after, facts.never_metric_after, facts.is_last))
    if facts.is_failure:
        level = min(level, paid, start)
    memory["start"], memory["level"] = start, level
    return start, paid, level


def clip_level(value: float, low: float, high: float) -> float:
    """Return `value` within [low, high]; a number that is none counts as `low`."""
    return low if math.isnan(value) else min(max(value, low), high)


def compute_ratio(top: float, bottom: float) -> float:
    """Return top / bottom for any numbers: infinite where no float holds it, x / 0 likewise, 0 / 0 NaN."""
    try:
        return top / bottom
    except OverflowError:  # whole numbers beyond any float
        return math.inf if (top > 0) == (bottom > 0) else -math.inf
    except ZeroDivisionError:
        return math.inf if top > 0 else -math.inf if top < 0 else math.nan
