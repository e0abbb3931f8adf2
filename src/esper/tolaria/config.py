"""Settings of one host run, nested as the parts that they configure."""

from __future__ import annotations

import math
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
CHECKPOINTING_MODES = ("off", "on", "auto")
ROLLBACK_MODES = ("restore", "terminate")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostRunConfig:
    """How one host is trained, grown and watched."""

    batch_size: int = 128
    """Training items per batch, >= 2; small enough for many updates on small sets."""
    epochs: int | None = None
    """Decision intervals until the horizon, >= 1; None = the task's own, for which its published
    tables were made."""
    interval_batches: int | None = None
    """Batches in one decision interval, >= 1: on a large set decisions need not wait for its end. None = one
    pass over the training split."""
    device: str = "cpu"
    """"cpu", "cuda", "cuda:<i>", "mps" or "auto"; cpu by default, because runs are bit-exact there."""
    amp: str = "off"
    """Autocast of forward passes: "off", "bf16" or "fp16"; off, because results are in float32 and the
    smallest hosts lose by it (docs/performance.md). On a CPU attention stays in float32, which is faster."""
    compile: str = "none"
    """`torch.compile` of the host's forward: "none", "default" or "reduce-overhead"; none, because every
    change of topology compiles anew. While a seed incubates the host runs uncompiled."""
    seed_checkpointing: str = "off"
    """Whether seeds compute their activations again in the backward pass instead of keeping them: "off",
    "on", or "auto" = seeds that would keep `seed_checkpointing_mb`; off, because it costs one forward pass of
    the seed per batch and small seeds keep little. Numbers are the same. Not with `compile`."""
    seed_checkpointing_mb: float = 64.0
    """Mode "auto": activations of one batch, in MiB, from which a seed recomputes them, >= 0; 64 leaves
    every seed of the built-in tasks alone."""
    max_memory_mb: float | None = None
    """Memory that host and seeds may take while they train, in MiB, > 0: more is refused, a seed as well as
    the run; None = what is free on the device when it is asked. A number makes refusals repeatable."""
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
            ("seed_checkpointing", self.seed_checkpointing, CHECKPOINTING_MODES),
            ("on_failure", self.on_failure, ROLLBACK_MODES),
        ):
            if value not in known:
                raise ConfigError(f"host.{name}={value!r}: {suggest(value, known)}")
        if self.seed_checkpointing != "off" and self.compile != "none":
            raise ConfigError(
                f"host.seed_checkpointing={self.seed_checkpointing!r} with host.compile={self.compile!r}: a "
                "compiled pass plans for itself what it keeps and cannot put a seed's buffers back before a "
                "second one; set one of the two to its default"
            )
        if not (math.isfinite(self.seed_checkpointing_mb) and self.seed_checkpointing_mb >= 0):
            raise ConfigError(
                f"host.seed_checkpointing_mb={self.seed_checkpointing_mb}: must be finite and >= 0"
            )
        if self.max_memory_mb is not None and not 0 < self.max_memory_mb < math.inf:
            raise ConfigError(f"host.max_memory_mb={self.max_memory_mb}: must be finite and > 0")
        for name, count, low in (
            ("batch_size", self.batch_size, 2),
            ("snapshot_every", self.snapshot_every, 1),
            ("epochs", self.epochs, 1),
            ("interval_batches", self.interval_batches, 1),
        ):
            if count is not None and count < low:
                raise ConfigError(f"host.{name}={count}: must be >= {low}")
        is_known = self.device in ("cpu", "mps", "auto") or self.device.split(":")[0] == "cuda"
        if not is_known:
            raise ConfigError(f"host.device={self.device!r}: must be cpu, cuda, cuda:<index>, mps or auto")
