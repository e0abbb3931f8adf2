"""What a run has shown, on its way to a row: a curve, structure changes, a bill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from esper.leyline import EsperError, JsonValue


class BrokenRunError(EsperError):
    """A run came to numbers that are not finite: it counts as a failure, not as missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The end of one epoch.

    Example:
        Point(flops=1_000_000, metric=0.91, loss=0.3, is_changed=False)
    """

    flops: int
    """Spent so far, everything but plain validation."""
    metric: float
    """Validation accuracy."""
    loss: float
    """Validation loss per item."""
    is_changed: bool
    """Whether the network's structure, or how much of a seed is in it, changed since the epoch before."""


@dataclass(slots=True, kw_only=True)
class Trace:
    """What is noted while a network is trained."""

    points: list[Point] = field(default_factory=list)
    peak_params: int = 0
    """Most parameters that were ever held, seeds under trial included."""
    growth_seconds: float = 0.0
    """Deciding, measuring, scoring, statistics, line searches; training of seeds is training."""
    change_jump: float | None = None
    """Largest relative rise of the validation loss by a change of the network alone, no training between;
    None where it was not measured."""

    def note_jump(self, before: float, after: float) -> None:
        """Note validation losses of the same weights before and after a change."""
        self.change_jump = max(self.change_jump or 0.0, after / before - 1.0)

    def describe(self) -> dict[str, JsonValue]:
        """Return what a row says of the training; its curve is [FLOPs, accuracy] after each epoch."""
        curve: list[JsonValue] = [[point.flops, round(point.metric, 5)] for point in self.points]
        return {
            "curve": curve,
            "params_peak": self.peak_params,
            "loss_jump": compute_loss_jump(self.points),
            "change_jump": self.change_jump,
            "growth_seconds": self.growth_seconds,
        }


def compute_loss_jump(points: list[Point]) -> float | None:
    """Return the largest relative rise of the validation loss over an epoch in which the network changed.

    Changes in the first epoch have no loss before them. None if there is no such epoch; 0 if the loss never
    rose.
    """
    rises = [after.loss / before.loss - 1.0 for before, after in pairwise(points) if after.is_changed]
    return max(0.0, *rises) if rises else None


def require_finite(loss: float, epoch: int) -> None:
    """Refuse to go on with a broken network.

    Raises:
        BrokenRunError: If the loss is not finite.
    """
    if not math.isfinite(loss):
        raise BrokenRunError(f"validation loss is {loss} after epoch {epoch}: expected a finite number")
