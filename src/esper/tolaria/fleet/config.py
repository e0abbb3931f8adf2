"""Which fleet runs the hosts, and how its workers are watched. Only numbers and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError, suggest

FLEET_KINDS = ("serial", "process", "fused", "fused_process", "auto")
DEATH_POLICIES = ("stop", "restart")
_MAX_TIMEOUT_S = 86_400.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """How the hosts of one process are run side by side.

    Example:
        FleetConfig(kind="process", workers=2, on_death="restart")
    """

    kind: str = "serial"
    """"serial" = one host after another; "process" = worker processes with one thread each; "fused" = hosts
    of one architecture as one program; "fused_process" = that in each worker; "auto" = the fastest of them,
    measured at the start. Serial, because its numbers are the same to the last bit on any number of cores
    and whoever trains along; fused hosts differ from it by rounding."""
    workers: int = 0
    """process, fused_process: worker processes, >= 0, at most one per host; 0 = one per core that this
    process may use, because a worker keeps one core busy."""
    on_death: str = "stop"
    """process, fused_process: what follows the death of a worker. "stop" ends the training with its name;
    "restart" starts another one and abandons the episodes that it held. Stop, because most deaths have a
    cause that stays."""
    timeout_s: float = 1800.0
    """process, fused_process: seconds in which a worker must answer, > 0, at most 86400; then it counts as
    hung. Longer than the intervals of all its hosts together, because only a worker that hangs is found by
    it."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a name is unknown or not built in, or a number is out of range.
        """
        if self.kind not in FLEET_KINDS:
            raise ConfigError(f"fleet.kind={self.kind!r}: {suggest(self.kind, FLEET_KINDS)}")
        if self.workers < 0:
            raise ConfigError(f"fleet.workers={self.workers}: must be >= 0; 0 = one per usable core")
        if self.on_death not in DEATH_POLICIES:
            raise ConfigError(f"fleet.on_death={self.on_death!r}: {suggest(self.on_death, DEATH_POLICIES)}")
        if not 0.0 < self.timeout_s <= _MAX_TIMEOUT_S:
            raise ConfigError(
                f"fleet.timeout_s={self.timeout_s}: must be > 0 and at most {_MAX_TIMEOUT_S:g} seconds"
            )
