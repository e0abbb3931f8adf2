"""How long ranks wait for each other, and when a slow rollout is cut short. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError

_RANGES = (
    ("init_timeout_s", 1.0, 3_600.0),
    ("gradient_timeout_s", 1.0, 1_800.0),
    ("control_timeout_s", 1.0, 86_400.0),
    ("heartbeat_every_s", 0.05, 1.0),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedConfig:
    """How ranks of one training wait for each other.

    Example:
        DistributedConfig(control_timeout_s=1800.0, preempt_after_fraction=0.6)
    """

    init_timeout_s: float = 300.0
    """Seconds that opening the groups may take, in [1, 3600]; ranks import torch and open data first, and do
    so at different speeds."""
    gradient_timeout_s: float = 60.0
    """Seconds that a reduction of gradients may take, in [1, 1800]; ranks learn in step, so that none is late
    by more than a minibatch."""
    control_timeout_s: float = 600.0
    """Seconds that any other exchange may take, in [1, 86400] and at least `gradient_timeout_s`; at least
    twice the longest usual rollout, because the fastest rank waits here for the slowest."""
    heartbeat_every_s: float = 0.5
    """Seconds between two signs of life of a rank, in [0.05, 1]; four of them missing count as silence, which
    must be short beside any timeout."""
    preempt_after_fraction: float | None = None
    """Share of the ranks, in (0, 1], whose finished rollouts cut short those of the others; None = never,
    because a cut depends on speed, so that no two trainings are alike."""
    preempt_least_fraction: float = 0.25
    """Share of its own steps, in [0, 1], that a rank collects before it may be cut; less would say little
    about its hosts."""

    is_elastic: bool = False
    """Whether a saved training may go on with another number of ranks; no, because a changed number is more
    often a mistake. Environments, or rows of batches, are dealt anew, and the numbers stay those of one
    process but for the last bits."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"distributed.{name}={value}: must be in [{low:g}, {high:g}]")
        if self.control_timeout_s < self.gradient_timeout_s:
            raise ConfigError(
                f"distributed.control_timeout_s={self.control_timeout_s}: must be at least "
                f"distributed.gradient_timeout_s={self.gradient_timeout_s}, because it also spans rollouts"
            )
        after = self.preempt_after_fraction
        if after is not None and not 0 < after <= 1:
            raise ConfigError(f"distributed.preempt_after_fraction={after}: must be in (0, 1], or None")
        if not 0 <= self.preempt_least_fraction <= 1:
            raise ConfigError(
                f"distributed.preempt_least_fraction={self.preempt_least_fraction}: must be in [0, 1]"
            )

    @property
    def silence_s(self) -> float:
        """Seconds after which a heartbeat that did not move counts as stopped.

        Four beats and at least one second, so that a busy machine is not taken for a dead rank.
        """
        return max(1.0, 4 * self.heartbeat_every_s)
