"""What a stacked module is: R copies of one module, with R sets of weights, computed as one.

Legend of shapes, here and in the files beside: R rows (copies), B items, C channels of one row, H x W a map,
T positions. Row r of every result depends on row r of the input and of the weights alone.
Knows modules and tensors; no slot, no stage, no optimiser, no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol, final

from torch import Tensor

from esper.leyline import EsperError


class UnstackableError(EsperError, ValueError):
    """Raised when a module, or a setting of one, is not known well enough to compute R copies as one."""


@final
class StackArrangement(Enum):
    """Where the rows are in an activation."""

    MAPS = "maps"
    """[B, R * C, H, W] in channels-last memory, row r in channels r C to (r + 1) C: a wide network's map."""
    ROWS = "rows"
    """[R, B, ...]: tokens [R, B, T] int64, sequences [R, B, T, C], flat features [R, B, C]."""


def _no_statistics() -> Mapping[str, tuple[Tensor, Tensor]]:
    return MappingProxyType({})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StackContext:
    """How one pass is to be run.

    Example:
        StackContext(num_rows=32, running={"block1.1": (mean, variance)}, momentum=1.0)
    """

    num_rows: int
    """R, >= 1."""
    is_training: bool = True
    """Whether norms with running statistics normalise by the batch."""
    running: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=_no_statistics)
    """Path of a norm -> its mean and variance, each [R, C], contiguous. Read when not training, written in
    place when training; a norm that is missing here while training uses the batch and writes nothing."""
    momentum: float | None = None
    """Weight of the batch in what is written, in [0, 1]; None = each norm's own."""


class Stacked(Protocol):
    """R copies of a module as one function of an activation and the weights."""

    @property
    def arrangement_in(self) -> StackArrangement:
        """Where the rows are in what it takes."""

    @property
    def arrangement_out(self) -> StackArrangement:
        """Where the rows are in what it gives."""

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor], context: StackContext) -> Tensor:
        """Compute all rows.

        Args:
            x: The activation, in `arrangement_in`.
            weights: Parameter path -> [R, *shape], any stride between rows.
            context: How the pass is run.
        """
