"""Settings of the reward: prices in units of the metric's scale, and what one such unit is in reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

from esper.leyline import ConfigError, suggest

REWARD_MODES = ("gain", "sparse", "minimal", "shaped", "simplified", "loss")
"""What `RewardConfig.mode` may be."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossRewardConfig:
    """What the mode "loss" adds to the common settings."""

    weight: float = 5.0
    """Price of one chance loss, in metric scales, > 0; a fall of the loss by a hundredth of a uniform guess's
    then pays as much as five hundredths of a scale."""
    bound: float = 2.0
    """Largest loss that is told apart from a larger one, in chance losses, >= 1; a uniform guess is 1, and
    twice that is a host that went wrong."""
    grace_epochs: int = 3
    """Age in intervals up to which a seed pays no parameter rent, >= 0; a seed incubates about that long."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        _require("reward.loss", "weight", self.weight, 1e-9, 1e6)
        _require("reward.loss", "bound", self.bound, 1.0, 1e6)
        _require("reward.loss", "grace_epochs", self.grace_epochs, 0, 10**6)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """What an episode is paid for.

    Example:
        RewardConfig(mode="shaped", lambda_p=0.1)
    """

    mode: str = "gain"
    """"gain", "sparse", "minimal", "shaped", "simplified" or "loss"; gain, because its sum is the objective
    itself and every step tells its share."""
    scale: float = 0.05
    """Reward for one metric scale, > 0; with it no step of any mode can exceed 1."""
    bound: float = 1.0
    """Largest absolute reward of a step that is accepted, > 0; terms and weights that could exceed it are
    refused."""
    lambda_p: float = 0.05
    """Price of parameters, metric scales per unit of log(1 + added / host), >= 0. For an accuracy of scale
    0.05 a doubling of the parameters must bring 0.0017."""
    lambda_f: float = 0.05
    """Price of FLOPs, metric scales per bill of never growing, >= 0. For an accuracy of scale 0.05 a
    doubling of the FLOPs must bring 0.0025."""
    lead_bound: float = 7.0
    """Lead over the never-grown host that counts at most, metric scales, > 0; for accuracies 35 points."""
    rent_bound: float = 0.5
    """Largest rent for parameters, and for FLOPs, metric scales, > 0; ten bills of never growing at the
    default price."""
    failure_price: float = 3.0
    """Price of a host that failed, metric scales, >= 0; more than both rents together, so that failing is
    never a way to stop paying."""
    shaping_weight: float = 0.5
    """Weight of the stage potential, metric scales, >= 0; it cancels out over an episode."""
    contribution_weight: float = 0.3
    """Weight of contributions, metric scales per metric scale, >= 0; below 1, because the end pays the same
    once more and fully."""
    contribution_bound: float = 2.0
    """Largest worth of all seeds together, metric scales, > 0; for accuracies ten points."""
    contribution_errors: float = 1.0
    """Standard errors by which a contribution is doubted, in [0, 5]; one, because what is paid early is
    taken back if it proves wrong; the gates that keep a seed doubt more."""
    intervention_price: float = 0.01
    """Price of an operation, metric scales, >= 0; it breaks ties and stays far below the gain of a useful
    seed."""
    young_cull_price: float = 0.1
    """Price of culling a young seed, metric scales, >= 0; ten operations."""
    young_cull_epochs: int = 5
    """Age in intervals from which culling is free, >= 0; by then a seed has incubated and begun to blend."""
    indecision_price: float = 0.02
    """Full price per interval of a seed that waits to be kept, metric scales, >= 0; two operations."""
    indecision_patience_epochs: int = 2
    """Intervals in probation that are free, >= 0: the gates ask for about that many."""
    extra_terms: tuple[str, ...] = ()
    """Terms of your own, each as "package.module:Class=WEIGHT", the weight in metric scales, > 0; none,
    because a mode's sum is the objective and another term changes what is asked for."""
    loss: LossRewardConfig = field(default_factory=LossRewardConfig)
    """Settings of the mode "loss"."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.mode not in REWARD_MODES:
            raise ConfigError(f"reward.mode={self.mode!r}: {suggest(self.mode, REWARD_MODES)}")
        for name in ("scale", "bound", "lead_bound", "rent_bound", "contribution_bound"):
            _require("reward", name, getattr(self, name), 1e-9, 1e6)
        for name in _PRICES:
            _require("reward", name, getattr(self, name), 0.0, 1e6)
        _require("reward", "contribution_errors", self.contribution_errors, 0.0, 5.0)
        for name in ("young_cull_epochs", "indecision_patience_epochs"):
            _require("reward", name, getattr(self, name), 0, 10**6)
        for text in self.extra_terms:
            parse_extra_term(text)


def parse_extra_term(text: str) -> tuple[str, float]:
    """Return (reference, weight) of an entry of `RewardConfig.extra_terms`; imports nothing.

    Args:
        text: Such as "package.module:Class=0.5".

    Raises:
        ConfigError: If it has no reference, or no weight in (0, 1e6].

    Example:
        >>> parse_extra_term("my_terms:FirstSeed=0.5")
        ('my_terms:FirstSeed', 0.5)
    """
    reference, _, written = text.rpartition("=")
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not reference.strip() or not 0.0 < weight <= 1e6:
        raise ConfigError(
            f"reward.extra_terms={text!r}: expected package.module:Class=WEIGHT with a weight in (0, 1e+06], "
            "e.g. my_terms:FirstSeed=0.5"
        )
    return reference.strip(), weight


_PRICES = (
    "lambda_p",
    "lambda_f",
    "failure_price",
    "shaping_weight",
    "contribution_weight",
    "intervention_price",
    "young_cull_price",
    "indecision_price",
)


def _require(section: str, name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{section}.{name}={value}: must be finite and in [{low:g}, {high:g}]")
