"""A reward is a weighted sum of named terms; what comes back is the total and every share of it.

```
StepFacts --RewardTerm.compute--> number in the term's range --x weight x scale--> share --sum--> total
```
Ranges are part of a term, so the largest total of a rubric is known before the first step, and a rubric whose
total could exceed its bound is refused. Knows no concrete term.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue
from esper.simic.rewards.facts import StepFacts

RANGE_TOLERANCE = 1e-9
"""Slack for rounding when a value is compared with its range."""

TermMemory = dict[str, JsonValue]
"""What a term remembers of the present episode: plain JSON data, empty at its start."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTermSpec:
    """What a term is, as data: its row in docs/rewards.md, and the range that the rubric relies on.

    Example:
        RewardTermSpec(name="governor", formula="-1 if the host failed", unit="1", low=-1.0, high=0.0,
        why="...")
    """

    name: str
    """Unique in a rubric; the name of its share."""
    formula: str
    unit: str
    """Of the unweighted value."""
    low: float
    """Smallest value that it may return."""
    high: float
    """Largest value that it may return."""
    why: str
    """One sentence."""
    pays_without_growth: bool = False
    """Whether it may be other than 0 on a step of a host that never grows."""

    def __post_init__(self) -> None:
        """Check name and range.

        Raises:
            ConfigError: If the name is no identifier, or the range is not finite or does not hold 0.
        """
        if not self.name.isidentifier():
            raise ConfigError(f"reward term {self.name!r}: the name must be an identifier, e.g. 'my_term'")
        if not -math.inf < self.low <= 0.0 <= self.high < math.inf:
            raise ConfigError(
                f"reward term {self.name!r}: range [{self.low}, {self.high}] must be finite and hold 0"
            )

    @property
    def largest(self) -> float:
        """Largest absolute value."""
        return max(-self.low, self.high)


class RewardTerm(Protocol):
    """One reason to pay. Everything a term knows comes from the facts and from its memory."""

    @property
    def spec(self) -> RewardTermSpec:
        """What it is."""

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        """Return its value for one step, within the range of its spec for any facts whatever.

        Args:
            facts: The step; steps of an episode come in order.
            memory: Its own, empty at the start of an episode; the only thing that it may change.
        """


class WeightedTerm(NamedTuple):
    """A term and its price."""

    term: RewardTerm
    weight: float
    """Multiplies the term's value; >= 0, because penalties are negative by themselves."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBreakdown:
    """The reward of one step."""

    total: float
    """Exactly the sum of the shares, added up in their order."""
    terms: Mapping[str, float]
    """Name -> share, every term of the rubric, in its order."""


@final
class Rubric:
    """Terms with their weights. Holds no memory: one rubric serves any number of episodes at once.

    Example:
        rubric = Rubric([WeightedTerm(GovernorPenalty(), 3.0)], scale=0.05, bound=1.0)
        state = RewardState(rubric)
        breakdown = state.compute(facts)
    """

    def __init__(self, terms: Iterable[WeightedTerm], *, scale: float = 1.0, bound: float = 1.0) -> None:
        """Bind the terms.

        Args:
            terms: In the order of the breakdown; those of weight 0 are left out.
            scale: Factor on every share, > 0.
            bound: Largest absolute total of a step that is accepted, > 0.

        Raises:
            ConfigError: If a name occurs twice, a weight is negative or not finite, the scale is not > 0, or
                the terms could pay more than `bound` in one step.
        """
        if not 0.0 < scale < math.inf:
            raise ConfigError(f"reward.scale={scale}: must be finite and > 0")
        self._terms = tuple(item for item in terms if item.weight != 0.0)
        self._scale = scale
        names = [item.term.spec.name for item in self._terms]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"reward terms {', '.join(doubled)}: each name may occur once in a rubric")
        for item in self._terms:
            if not 0.0 < item.weight < math.inf:
                raise ConfigError(
                    f"reward term {item.term.spec.name!r}: weight={item.weight} must be finite and >= 0"
                )
        if self.largest_total > bound + RANGE_TOLERANCE:
            raise ConfigError(
                f"the reward could reach {self.largest_total:.3g} in one step, allowed is {bound:g}: lower "
                f"reward.scale to {scale * bound / self.largest_total:.3g}, lower a weight, or raise "
                "reward.bound"
            )

    @property
    def terms(self) -> tuple[WeightedTerm, ...]:
        """Terms and weights in order."""
        return self._terms

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms in order."""
        return tuple(item.term.spec.name for item in self._terms)

    @property
    def largest_total(self) -> float:
        """Absolute total that no step can exceed, whatever the facts."""
        return sum(self.largest_share(item) for item in self._terms)

    def largest_share(self, item: WeightedTerm) -> float:
        """Return the absolute share that no step of one of its terms can exceed."""
        return self._scale * item.weight * item.term.spec.largest

    def compute(self, facts: StepFacts, memories: Mapping[str, TermMemory]) -> RewardBreakdown:
        """Return the reward of one step.

        Args:
            facts: The step.
            memories: Name -> the memory of that term; `RewardState` owns them.

        Raises:
            ConfigError: If a term breaks the promise of its range; the step cannot be paid.
        """
        shares = {}
        for term, weight in self._terms:
            spec = term.spec
            value = term.compute(facts, memories[spec.name])
            if not spec.low - RANGE_TOLERANCE <= value <= spec.high + RANGE_TOLERANCE:
                raise ConfigError(
                    f"reward term {spec.name!r} gave {value} after interval {facts.after.signals.epoch}, its "
                    f"range is [{spec.low}, {spec.high}]: mend it with the help of check_reward_term"
                )
            shares[spec.name] = self._scale * weight * value
        return RewardBreakdown(total=sum(shares.values(), 0.0), terms=shares)


@final
class RewardState:
    """The reward of one episode at a time: a rubric and its memories, which can be saved between steps."""

    def __init__(self, rubric: Rubric) -> None:
        """Begin an episode."""
        self._rubric = rubric
        self._memories: dict[str, TermMemory] = {}
        self.reset()

    @property
    def rubric(self) -> Rubric:
        """What it pays by."""
        return self._rubric

    def reset(self) -> None:
        """Begin a new episode: every memory is empty."""
        self._memories = {name: {} for name in self._rubric.names}

    def compute(self, facts: StepFacts) -> RewardBreakdown:
        """Return the reward of the next step; see `Rubric.compute`."""
        return self._rubric.compute(facts, self._memories)

    def state(self) -> dict[str, JsonValue]:
        """Return the memories as plain data: name -> memory."""
        return {name: copy.deepcopy(memory) for name, memory in self._memories.items()}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it was saved by a rubric of other terms; nothing is changed then.
        """
        if set(state) != set(self._rubric.names):
            raise ForeignCheckpointError(
                f"saved reward has the terms {', '.join(sorted(state)) or 'none'}, this one has "
                f"{', '.join(sorted(self._rubric.names)) or 'none'}: resume with the saved configuration"
            )
        memories: dict[str, TermMemory] = {}
        for name in self._rubric.names:
            saved = state[name]
            if not isinstance(saved, Mapping):
                raise ForeignCheckpointError(
                    f"saved memory of reward term {name!r} is no table: {saved!r:.80}"
                )
            memories[name] = copy.deepcopy(dict(saved))
        self._memories = memories


def read_number(memory: Mapping[str, JsonValue], key: str, default: float) -> float:
    """Return a number from a memory, `default` where there is none yet."""
    value = memory.get(key)
    return float(value) if isinstance(value, int | float) else default
