"""What was seen of the gradients of one batch: per group its norm, and whether it was faulty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFlag:
    """One owner's gradient in one batch, after unscaling and before clipping."""

    norm: float
    """L2 norm; not finite when the gradient is not, or when its square overflows float32."""
    rms: float
    """norm / sqrt(number of values)."""
    has_gradient: bool
    faulty_name: str = ""
    """Of a faulty gradient: the first parameter with such a number, else the one with the largest."""

    @property
    def is_faulty(self) -> bool:
        """Whether the gradient is not finite."""
        return not math.isfinite(self.norm)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFlags:
    """Host and seeds in one batch."""

    host: GroupFlag
    seeds: Mapping[str, GroupFlag]
    """By slot."""

    @property
    def is_host_faulty(self) -> bool:
        """Whether the whole step is skipped."""
        return self.host.is_faulty
