"""The reward of a host that nobody pays for: its run trains no policy, and no host that never grows.

The terms of the mode are those of a training, but for the lead over the host that never grows, which is not
known: the change of the metric stands in its place, under a name of its own, and holds what the host would
have learned by itself.
"""

from __future__ import annotations

import math
from typing import final

from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.levels import AtTheEnd, ChangeOf, Side, clip_level, compute_ratio
from esper.simic.rewards.modes import build_rubric
from esper.simic.rewards.rubric import RewardState, RewardTerm, RewardTermSpec, Rubric, WeightedTerm

_LARGEST_LEVEL = 1e9


@final
class MetricLevel:
    """The metric itself, in its scales."""

    def __init__(self) -> None:
        """Bind nothing."""
        self.spec = RewardTermSpec(
            name="metric_change",
            formula="metric / scale; 0 before the first interval",
            unit="metric scales",
            low=-_LARGEST_LEVEL,
            high=_LARGEST_LEVEL,
            why="Without a host that never grows this is all that is known of what an interval brought.",
            pays_without_growth=True,
        )

    def compute_level(self, side: Side) -> float:
        """See `Quantity.compute_level`."""
        signals, scale = side.observation.signals, side.observation.metric.scale
        level = compute_ratio(signals.metric, scale) if signals.has_history else 0.0
        return clip_level(level, self.spec.low, self.spec.high)


def build_lone_reward(config: RewardConfig, *, discount: float) -> RewardState:
    """Return the reward of one host whose never-grown life is not known; a user's own terms are left out.

    Args:
        config: Mode and prices; its bounds on the lead and on a step do not apply.
        discount: Gamma of the shaping.

    Raises:
        ConfigError: If gamma is out of range, or a step of a training could pay more than its bound.

    Example:
        >>> names = build_lone_reward(RewardConfig(), discount=0.99).rubric.names
        >>> "metric_change" in names, "metric_lead" in names
        (True, False)
    """
    level = MetricLevel()
    substitutes: dict[str, RewardTerm] = {
        "metric_lead": ChangeOf(level),
        "final_metric_lead": AtTheEnd(level),
    }
    terms = [
        WeightedTerm(substitutes.get(item.term.spec.name, item.term), item.weight)
        for item in build_rubric(config, discount=discount).terms
    ]
    return RewardState(Rubric(terms, scale=config.scale, bound=math.inf))
