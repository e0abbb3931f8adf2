"""Settings of `esper.fit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from esper.leyline import ConfigError
from esper.tolaria import AMP_MODES, GovernorConfig


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How `fit` trains."""

    epochs: int
    """Passes over the training loader, >= 1; growth takes some: a seed lives for six intervals at
    least."""
    interval_batches: int | None = None
    """Batches between decisions, >= 1; None = one pass, so that a decision sees every item once."""
    accumulation: int = 1
    """Batches per optimiser step, >= 1; more where memory holds no larger batch."""
    clip_norm: float | None = None
    """Largest gradient norm of all parameters together, > 0; None = no clipping, as in a plain loop of
    torch."""
    amp: str = "off"
    """Autocast: "off", "bf16" or "fp16" with a loss scaler; off, because small models gain little."""
    scheduler_every: str = "epoch"
    """When schedulers step: after an "epoch" or an optimiser's "step"; an epoch, as torch's examples do."""
    save_every: int = 1
    """Intervals between saves, >= 1; used where a folder to save in is given."""
    incubation: str = "shadow"
    """What seeds learn while they incubate: "shadow", the true loss in a pass of their own, or "residual",
    which costs none and tells a seed less. Shadow, as in our own tasks (decision 0009)."""
    governor: GovernorConfig = field(default_factory=GovernorConfig)
    """When the model goes back to its last good state."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name in ("epochs", "accumulation", "save_every", "interval_batches"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ConfigError(f"fit: {name}={value!r}: must be a whole number")
        for name in ("epochs", "accumulation", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"fit: {name}={getattr(self, name)}: must be >= 1")
        if self.interval_batches is not None and self.interval_batches < 1:
            raise ConfigError(f"fit: interval_batches={self.interval_batches}: must be >= 1, or None")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise ConfigError(f"fit: clip_norm={self.clip_norm}: must be finite and > 0, or None")
        if self.amp not in AMP_MODES:
            raise ConfigError(f"fit: amp={self.amp!r}: must be one of {', '.join(AMP_MODES)}")
        if self.incubation not in ("shadow", "residual"):
            raise ConfigError(f"fit: incubation={self.incubation!r}: must be 'shadow' or 'residual'")
        if self.scheduler_every not in ("epoch", "step"):
            raise ConfigError(f"fit: scheduler_every={self.scheduler_every!r}: must be 'epoch' or 'step'")
