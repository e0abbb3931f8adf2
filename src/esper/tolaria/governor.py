"""Vital signs to a verdict: is this host still worth training from here, or must it go back?

```
non_finite           the loss is not finite, or most updates were skipped
diverged             validation loss far above its window for several intervals, or above a multiple of the best
collapsed_to_chance  a host that had learned answers as if it guessed
```
Losses judged anomalous are not added to the window that judges the next ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import ConfigError, EpochOutcome, JsonValue, Verdict, VerdictKind


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorConfig:
    """When a host is rolled back, and how often."""

    window: int = 20
    """Intervals whose losses are remembered, >= 2."""
    min_history: int = 5
    """Intervals before divergence and collapse are judged, >= 1: early losses say little."""
    max_deviations: float = 6.0
    """Standard deviations above the window's mean that count as anomalous, > 0."""
    max_mean_ratio: float = 3.0
    """Multiple of the window's mean that an anomalous loss must exceed as well, > 1."""
    max_best_ratio: float = 5.0
    """Multiple of the best loss (at least a tenth of chance) that is never tolerated, > 1."""
    patience: int = 2
    """Anomalous intervals in a row before the verdict, >= 1: one bad interval may pass."""
    max_skipped_fraction: float = 0.5
    """Share of an interval's batches that may be skipped for non-finite numbers, in [0, 1]."""
    collapse_margin: float = 0.065
    """Distance from the loss of a uniform guess, as a fraction of it, that counts as chance, in (0, 1)."""
    learned_fraction: float = 0.6
    """A host has learned when its window's mean is below this fraction of chance, in (0, 1)."""
    max_rollbacks: int = 3
    """Rollbacks before the run is given up, >= 0."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low in (("window", 2), ("min_history", 1), ("patience", 1), ("max_rollbacks", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"governor.{name}={getattr(self, name)}: must be >= {low}")
        for name, low_value in (("max_deviations", 0.0), ("max_mean_ratio", 1.0), ("max_best_ratio", 1.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > low_value):
                raise ConfigError(f"governor.{name}={value}: must be finite and > {low_value:g}")
        for name in ("collapse_margin", "learned_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"governor.{name}={getattr(self, name)}: must be in (0, 1)")
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ConfigError(f"governor.max_skipped_fraction={self.max_skipped_fraction}: must be in [0, 1]")


@final
class Governor:
    """Judges intervals; counts rollbacks, which never run backwards."""

    def __init__(self, config: GovernorConfig, *, chance_loss: float) -> None:
        """Bind thresholds.

        Args:
            config: Thresholds.
            chance_loss: Loss of a uniform guess for the task, > 0.
        """
        self._config = config
        self._chance_loss = chance_loss
        self._losses: list[float] = []
        self._best = math.inf
        self._strikes = 0
        self.rollback_count = 0

    def judge(self, outcome: EpochOutcome, *, blamed_slot: str | None = None) -> Verdict:
        """Return the verdict on one interval.

        Args:
            outcome: Its numbers.
            blamed_slot: The slot whose seed would be culled: the one that began to blend last.
        """
        loss = outcome.validation_loss
        broken = self._find_non_finite(outcome)
        if broken is not None:
            return Verdict(kind=VerdictKind.NON_FINITE, reason=broken, blamed_slot=blamed_slot)
        reason = self._find_divergence(loss)
        if reason is not None:
            self._strikes += 1
            if self._strikes >= self._config.patience:
                return Verdict(kind=VerdictKind.DIVERGED, reason=reason, blamed_slot=blamed_slot)
            return Verdict()
        reason = self._find_collapse(loss)
        if reason is not None:
            return Verdict(kind=VerdictKind.COLLAPSED, reason=reason, blamed_slot=blamed_slot)
        self._strikes = 0
        self._best = min(self._best, loss)
        self._losses = [*self._losses, loss][-self._config.window :]
        return Verdict()

    def count_rollback(self) -> int:
        """Count one more rollback and return how many there were."""
        self.rollback_count += 1
        return self.rollback_count

    def _find_non_finite(self, outcome: EpochOutcome) -> str | None:
        if not (math.isfinite(outcome.validation_loss) and math.isfinite(outcome.train_loss)):
            return f"train loss {outcome.train_loss}, validation loss {outcome.validation_loss}"
        skipped, total = outcome.num_skipped_batches, outcome.num_batches
        if skipped > self._config.max_skipped_fraction * max(1, total):
            return f"{skipped} of {total} batches were skipped"
        return None

    def _find_divergence(self, loss: float) -> str | None:
        config = self._config
        floor = max(self._best, 0.1 * self._chance_loss)
        if math.isfinite(self._best) and loss > config.max_best_ratio * floor and loss > self._chance_loss:
            return f"validation loss {loss:.4g} is over {config.max_best_ratio:g} times the best {floor:.4g}"
        if len(self._losses) < config.min_history:
            return None
        mean = statistics.fmean(self._losses)
        spread = statistics.pstdev(self._losses)
        is_far = loss > mean + config.max_deviations * spread and loss > config.max_mean_ratio * mean
        if is_far and loss > self._chance_loss:
            return f"validation loss {loss:.4g} against a window of {mean:.4g} +- {spread:.2g}"
        return None

    def _find_collapse(self, loss: float) -> str | None:
        config, chance = self._config, self._chance_loss
        if len(self._losses) < config.min_history:
            return None
        has_learned = statistics.fmean(self._losses) < config.learned_fraction * chance
        if has_learned and abs(loss - chance) < config.collapse_margin * chance:
            return f"validation loss {loss:.4g} is that of guessing ({chance:.4g})"
        return None

    def state(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "losses": list(self._losses),
            "best": self._best if math.isfinite(self._best) else None,
            "strikes": self._strikes,
            "rollback_count": self.rollback_count,
        }

    def restore(self, state: Mapping[str, JsonValue], *, keep_rollback_count: bool) -> None:
        """Put back what `state` returned; on a rollback the count stays as it is."""
        losses, best = state["losses"], state["best"]
        assert isinstance(losses, list)
        self._losses = list(losses)
        self._best = math.inf if best is None else float(str(best))
        self._strikes = int(str(state["strikes"]))
        if not keep_rollback_count:
            self.rollback_count = int(str(state["rollback_count"]))
