"""Policies by name, for configurations and command lines."""

from __future__ import annotations

from esper.leyline import TamiyoPolicy, UnknownNameError
from esper.tamiyo.baselines import ForcedCyclePolicy, NeverGrow
from esper.tamiyo.greedy import GreedyConfig, GreedyScorePolicy
from esper.tamiyo.heuristic import HeuristicTamiyo
from esper.tamiyo.heuristic_config import HeuristicConfig
from esper.tamiyo.random_policy import RandomPolicy
from esper.tamiyo.schedule import FixedSchedulePolicy, build_even_schedule

POLICY_NAMES = ("cycle", "greedy", "heuristic", "never", "random", "schedule")
"""Every name that `build_policy` knows."""


def build_policy(
    name: str,
    *,
    seed: int,
    config: HeuristicConfig | None = None,
    greedy: GreedyConfig | None = None,
) -> TamiyoPolicy:
    """Build a policy.

    Args:
        name: One of `POLICY_NAMES`.
        seed: Of the policy's own random stream; only "random" draws.
        config: Rules of "heuristic", those of "greedy" for seeds that live, and the calendar of "schedule";
            None = the defaults.
        greedy: What "greedy" weighs; None = the defaults.

    Raises:
        UnknownNameError: If there is no policy of that name.

    Example:
        >>> build_policy("never", seed=0).decide(observation).action.op.value
        'WAIT'
    """
    rules = HeuristicConfig() if config is None else config
    if name == "heuristic":
        return HeuristicTamiyo(rules)
    if name == "greedy":
        return GreedyScorePolicy(greedy, rules)
    if name == "random":
        return RandomPolicy(seed)
    if name == "schedule":
        return FixedSchedulePolicy(build_even_schedule(rules), rules)
    if name == "never":
        return NeverGrow()
    if name == "cycle":
        return ForcedCyclePolicy()
    raise UnknownNameError("policy", name, POLICY_NAMES)
