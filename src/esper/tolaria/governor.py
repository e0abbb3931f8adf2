"""Vital signs to a verdict: is this host still worth training from here, or must it go back?

```
non_finite           a loss or a number that stays is not finite, or too many updates were skipped
diverged             the validation loss left its window for several intervals in a row,
                     or is a multiple of the best and worse than guessing
collapsed_to_chance  a host that had learned answers as if it guessed
```
Losses judged anomalous are not added to the window that judges the next ones. The first good loss of a run
is taken as it comes. Knows outcomes and slot reports only; rolling back is another's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from esper.leyline import (
    ConfigError,
    EpochOutcome,
    ForeignCheckpointError,
    JsonValue,
    SeedStage,
    SlotReport,
    Verdict,
    VerdictKind,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorConfig:
    """When a host is rolled back, and how often."""

    window: int = 20
    """Intervals whose losses are remembered, >= 2 and >= min_history: old losses say little about now."""
    min_history: int = 10
    """Healthy intervals before the window is used, >= 1; fewer give a spread that means nothing."""
    max_deviations: float = 6.0
    """Standard deviations above the window's mean that count as anomalous, > 0; noise stays far below 6."""
    max_mean_ratio: float = 3.0
    """Multiple of the window's mean that an anomalous loss exceeds as well, > 1: a window of almost equal
    losses has no spread to speak of."""
    max_chance_ratio: float = 2.0
    """Multiple of the loss of a uniform guess that an anomalous loss exceeds as well, >= 1: confident errors
    on a few items lift a mean to chance, not to twice that."""
    patience: int = 3
    """Anomalous intervals in a row before the verdict, >= 1: the start of a blend may cost one or two."""
    max_loss_ratio: float = 5.0
    """Multiple of the best loss that, together with being worse than a uniform guess, is a verdict at once:
    such a host has lost what it had; > 1."""
    max_skipped_fraction: float = 0.5
    """Share of an interval's batches that may be skipped for non-finite numbers, in [0, 1]; finding an fp16
    loss scale takes a few."""
    collapse_margin: float = 0.065
    """Distance from the loss of a uniform guess, as a fraction of it, that counts as chance, in (0, 1)."""
    learned_fraction: float = 0.6
    """A host has learned when its window's mean is below this fraction of chance, in (0, 1)."""
    max_rollbacks: int = 3
    """Rollbacks before the run is given up, >= 0; a fault that survives three different streams stays."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low in (("window", 2), ("min_history", 1), ("patience", 1), ("max_rollbacks", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"governor.{name}={getattr(self, name)}: must be >= {low}")
        if self.window < self.min_history:
            raise ConfigError(f"governor.window={self.window}: must be >= min_history={self.min_history}")
        for name, low_value in (("max_deviations", 0.0), ("max_mean_ratio", 1.0), ("max_loss_ratio", 1.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > low_value):
                raise ConfigError(f"governor.{name}={value}: must be finite and > {low_value:g}")
        if not (math.isfinite(self.max_chance_ratio) and self.max_chance_ratio >= 1):
            raise ConfigError(f"governor.max_chance_ratio={self.max_chance_ratio}: must be finite and >= 1")
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
            chance_loss: Loss of a uniform guess for the task (ln K for K classes), > 0.
        """
        self._config = config
        self.chance_loss = chance_loss
        self._losses: list[float] = []
        self._best = math.inf
        self._strikes = 0
        self.rollback_count = 0

    def judge(
        self, outcome: EpochOutcome, *, blamed_slot: str | None = None, lasting: str | None = None
    ) -> Verdict:
        """Return the verdict on one interval.

        Args:
            outcome: Its numbers.
            blamed_slot: The slot whose seed would be culled (see `find_blamed`).
            lasting: A moment, weight or statistic of what makes the output that is not finite.
        """
        loss = outcome.validation_loss
        for kind, reason in (
            (VerdictKind.NON_FINITE, self._find_non_finite(outcome) or lasting),
            (VerdictKind.COLLAPSED, self._find_collapse(loss)),
            (VerdictKind.DIVERGED, self._find_lost(loss)),
        ):
            if reason is not None:
                return Verdict(kind=kind, reason=reason, blamed_slot=blamed_slot)
        anomaly = self._find_anomaly(loss)
        if anomaly is not None:
            self._strikes += 1
            if self._strikes >= self._config.patience:
                return Verdict(kind=VerdictKind.DIVERGED, reason=anomaly, blamed_slot=blamed_slot)
            return Verdict()
        self._strikes = 0
        self._best = min(self._best, loss)
        self._losses = [*self._losses, loss][-self._config.window :]
        return Verdict()

    def count_rollback(self) -> int:
        """Count one more rollback and return how many there were."""
        self.rollback_count += 1
        return self.rollback_count

    def _find_non_finite(self, outcome: EpochOutcome) -> str | None:
        losses = (outcome.train_loss, outcome.validation_loss, outcome.metric)
        if not all(math.isfinite(value) for value in losses):
            return f"train loss {losses[0]}, validation loss {losses[1]}, metric {losses[2]}"
        skipped, total = outcome.num_skipped_batches, outcome.num_batches
        if skipped > self._config.max_skipped_fraction * max(1, total):
            return f"{skipped} of {total} batches were skipped"
        return None

    def _find_lost(self, loss: float) -> str | None:
        ratio = self._config.max_loss_ratio
        if loss > self.chance_loss and loss > ratio * self._best:
            return f"validation loss {loss:.4g} is over {ratio:g} times the best {self._best:.4g}"
        return None

    def _find_anomaly(self, loss: float) -> str | None:
        config = self._config
        # Every bound must be exceeded; the spread, which takes longest, is asked of the few that exceed this.
        if len(self._losses) < config.min_history or not loss > config.max_chance_ratio * self.chance_loss:
            return None
        mean, spread = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        if loss > max(config.max_mean_ratio * mean, mean + config.max_deviations * spread):
            return f"validation loss {loss:.4g} against a window of {mean:.4g} +- {spread:.2g}"
        return None

    def _find_collapse(self, loss: float) -> str | None:
        config, chance = self._config, self.chance_loss
        if len(self._losses) < config.min_history or not abs(loss - chance) < config.collapse_margin * chance:
            return None
        if statistics.fmean(self._losses) < config.learned_fraction * chance:
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
        """Put back what `state` returned.

        Args:
            state: Plain data.
            keep_rollback_count: True for a rollback: the count never runs backwards.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        try:
            saved, saved_best = state["losses"], state["best"]
            if not isinstance(saved, list):
                raise TypeError(f"losses is {saved!r}")
            losses = [float(str(loss)) for loss in saved]
            best = math.inf if saved_best is None else float(str(saved_best))
            strikes, count = int(str(state["strikes"])), int(str(state["rollback_count"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ForeignCheckpointError(f"saved governor is malformed: {error!r}") from error
        self._losses, self._best, self._strikes = losses, best, strikes
        if not keep_rollback_count:
            self.rollback_count = count


def find_blamed(
    slots: Sequence[SlotReport],
    outcome: EpochOutcome,
    overflowing: Collection[str],
    found: Collection[str] = (),
) -> str | None:
    """Return the slot whose seed a rollback would cull, or None.

    Only seeds that blend or are on probation come into question: an isolated one leaves the host bit-equal, a
    fossil stays. Of those, first one that the loss scaler blames, then one in which a bad number was found,
    then the one with the most faulty batches beyond the host's own (a faulty host makes every gradient
    faulty), then the one that began to blend last.

    Args:
        slots: Reports at the end of the interval.
        outcome: The interval's numbers.
        overflowing: Slots that the loss scaler blames.
        found: Slots in which a bad number was found.
    """

    def rank(report: SlotReport) -> tuple[bool, bool, int, bool, int]:
        measured = outcome.slots.get(report.slot)
        num_skipped = 0 if measured is None else measured.num_skipped_batches
        num_own = max(0, num_skipped - outcome.num_skipped_batches)
        is_blending = report.stage is SeedStage.BLENDING
        known = report.slot in overflowing, report.slot in found
        return *known, num_own, is_blending, -report.epochs_in_stage

    suspects = [slot for slot in slots if slot.stage in (SeedStage.BLENDING, SeedStage.PROBATIONARY)]
    return max(suspects, key=rank).slot if suspects else None
