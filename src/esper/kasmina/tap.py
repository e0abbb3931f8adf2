"""Where in a module's output the feature is, and how its axes become those that seeds know.

```
nchw [B, C, H, W]   a 2d map as it is          nld  [B, T, C]   a sequence as it is
nhwc [B, H, W, C]   a 2d map, channels last    ncl  [B, C, T]   a sequence, channels first
flat [B, C]         as it is                   lnd  [T, B, C]   a sequence, time first
```
Seeds see `nchw`, `nld` and `flat` only; the way there and back is a view. Knows tensors; no slot, no stage.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import final

from torch import Tensor

from esper.leyline import HostError, Layout


@final
class Arrangement(Enum):
    """Order of a feature's axes in somebody's model."""

    NCHW = "nchw"
    NHWC = "nhwc"
    NCL = "ncl"
    NLD = "nld"
    LND = "lnd"
    FLAT = "flat"

    @property
    def layout(self) -> Layout:
        """What seeds call it."""
        if self in (Arrangement.NCHW, Arrangement.NHWC):
            return Layout.MAP_2D
        return Layout.FLAT if self is Arrangement.FLAT else Layout.SEQUENCE

    @property
    def rank(self) -> int:
        """Number of axes, the batch's included."""
        return {Layout.MAP_2D: 4, Layout.SEQUENCE: 3, Layout.FLAT: 2}[self.layout]

    @property
    def channel_dim(self) -> int:
        """Axis of the channels, counted from the front."""
        return 1 if self in (Arrangement.NCHW, Arrangement.NCL, Arrangement.FLAT) else self.rank - 1

    @property
    def batch_dim(self) -> int:
        """Axis of the items."""
        return 1 if self is Arrangement.LND else 0

    def to_canonical(self, h: Tensor) -> Tensor:
        """Return h as seeds know it, [B, C, H, W], [B, T, C] or [B, C]; h itself where it is so already."""
        if self is Arrangement.NHWC:
            return h.permute(0, 3, 1, 2)
        if self is Arrangement.NCL:
            return h.transpose(1, 2)
        return h.transpose(0, 1) if self is Arrangement.LND else h

    def from_canonical(self, h: Tensor) -> Tensor:
        """Return h with the axes of the model it came from."""
        if self is Arrangement.NHWC:
            return h.permute(0, 2, 3, 1)
        if self is Arrangement.NCL:
            return h.transpose(1, 2)
        return h.transpose(0, 1) if self is Arrangement.LND else h


CANONICAL: Mapping[Layout, Arrangement] = MappingProxyType(
    {Layout.MAP_2D: Arrangement.NCHW, Layout.SEQUENCE: Arrangement.NLD, Layout.FLAT: Arrangement.FLAT}
)
"""Layout -> the arrangement that seeds know."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """Takes the feature out of a module's output, and puts a changed one back.

    Example:
        Tap(arrangement=Arrangement.NLD, select=0)   # an encoder layer that returns (hidden, weights)
    """

    arrangement: Arrangement
    select: int | str | None = None
    """Place in a tuple or list, or key of a mapping; None = the output is the feature."""

    def choose(self, output: object) -> Tensor:
        """Return the feature with the axes of the model it came from.

        Raises:
            HostError: If there is no tensor at the selected place; says where there are some.
        """
        chosen = _choose(output, self.select)
        if isinstance(chosen, Tensor):
            return chosen
        found = ", ".join(map(repr, find_selections(output))) or "no place"
        place = "" if self.select is None else f" at select={self.select!r}"
        raise HostError(
            f"returns {type(chosen).__name__}, needs one tensor{place}; there are tensors at select={found}"
        )

    def take(self, output: object) -> Tensor:
        """Return the feature as seeds know it; what is there was looked at when slots were attached.

        Raises:
            HostError: If nothing is at the selected place.
        """
        feature: Tensor = _choose(output, self.select)  # type: ignore[assignment]
        return self.arrangement.to_canonical(feature)

    def put(self, output: object, changed: Tensor) -> object:
        """Return the output with the feature replaced; the output given is left as it is."""
        feature = self.arrangement.from_canonical(changed)
        if self.select is None:
            return feature
        if isinstance(output, Mapping):
            replaced = copy.copy(output)
            replaced[self.select] = feature  # type: ignore[index]
            return replaced
        assert isinstance(output, tuple | list)
        assert isinstance(self.select, int)
        parts = list(output)
        parts[self.select] = feature
        if isinstance(output, list):
            return parts
        # A named tuple takes its parts one by one, a plain one takes them together.
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)


def find_selections(output: object) -> tuple[int | str, ...]:
    """Return every `select` at which an output holds a floating tensor with a shape; () where it is one."""
    if isinstance(output, Mapping):
        items: Sequence[tuple[int | str, object]] = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        items = list(enumerate(output))
    else:
        return ()
    return tuple(
        key
        for key, value in items
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_nested
    )


def _choose(output: object, select: int | str | None) -> object:
    if select is None:
        return output
    try:
        return output[select]  # type: ignore[index]
    except (KeyError, IndexError, TypeError) as error:
        found = find_selections(output)
        raise HostError(
            f"select={select!r} does not fit an output of type {type(output).__name__}; tensors are at "
            f"{', '.join(map(repr, found)) or 'no place'}"
        ) from error
