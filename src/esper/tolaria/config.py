"""Settings of one host run, nested as the parts that they configure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from esper.kasmina import GateConfig, LifecycleConfig
from esper.leyline import ConfigError, suggest
from esper.tolaria.governor import GovernorConfig
from esper.tolaria.measuring import MeasuringConfig
from esper.tolaria.optimizers import OptimizerConfig
from esper.tolaria.signals import SignalTrackerConfig

AMP_MODES = ("off", "bf16", "fp16")
COMPILE_MODES = ("none", "default", "reduce-overhead")
ROLLBACK_MODES = ("restore", "terminate")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostRunConfig:
    """How one host is trained, grown and watched."""

    batch_size: int = 128
    """Training items per batch, >= 2; small enough for many updates on small sets."""
    epochs: int | None = None
    """Decision intervals until the horizon, >= 1; None = the task's own."""
    device: str = "cpu"
    """"cpu", "cuda", "cuda:<i>", "mps" or "auto"; cpu by default, because runs are bit-exact there."""
    amp: str = "off"
    """Autocast of forward passes: "off", "bf16" or "fp16"; off, because small hosts gain little."""
    compile: str = "none"
    """`torch.compile` of the host's forward: "none", "default" or "reduce-overhead"; none, because every
    change of topology compiles anew. While a seed incubates the host runs uncompiled."""
    on_failure: str = "restore"
    """What follows once the last good state is back: "restore" trains on from it, "terminate" ends the
    episode; restore, because one sick seed should not cost a run."""
    snapshot_every: int = 3
    """Intervals between last-known-good snapshots, >= 1; taken only after a healthy verdict."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser of host and seeds."""
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    """How seeds move through their stages."""
    gates: GateConfig = field(default_factory=GateConfig)
    """Thresholds of the quality gates."""
    measuring: MeasuringConfig = field(default_factory=MeasuringConfig)
    """How seeds are measured."""
    governor: GovernorConfig = field(default_factory=GovernorConfig)
    """When a host is rolled back."""
    tracker: SignalTrackerConfig = field(default_factory=SignalTrackerConfig)
    """How plateaus and stability are told."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, value, known in (
            ("amp", self.amp, AMP_MODES),
            ("compile", self.compile, COMPILE_MODES),
            ("on_failure", self.on_failure, ROLLBACK_MODES),
        ):
            if value not in known:
                raise ConfigError(f"host.{name}={value!r}: {suggest(value, known)}")
        if self.batch_size < 2:
            raise ConfigError(f"host.batch_size={self.batch_size}: must be >= 2")
        if self.snapshot_every < 1:
            raise ConfigError(f"host.snapshot_every={self.snapshot_every}: must be >= 1")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"host.epochs={self.epochs}: must be >= 1")
        is_known = self.device in ("cpu", "mps", "auto") or self.device.split(":")[0] == "cuda"
        if not is_known:
            raise ConfigError(f"host.device={self.device!r}: must be cpu, cuda, cuda:<index>, mps or auto")
