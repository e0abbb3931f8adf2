"""What a blueprint is built for, and what a blueprint is: an id, a family, its layouts, a builder, a count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from esper.leyline import Layout


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSpec:
    """What passes at one slot.

    Example:
        SlotSpec(slot_id="block2", layout=Layout.MAP_2D, shape=(16, 7, 7), num_channels=16)
    """

    slot_id: str
    layout: Layout
    shape: tuple[int, ...]
    """One item's feature: (C, H, W), (T, C) or (C,)."""
    num_channels: int
    """C."""
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintSpec:
    """A recipe for the residual branch of a seed."""

    id: str
    """Unique in a registry, e.g. "conv_light"."""
    family: str
    """One of `leyline.BLUEPRINT_FAMILIES` or the user's own; a name that expands to its members."""
    layouts: frozenset[Layout]
    build: Callable[[SlotSpec], nn.Module]
    """Makes the branch delta(h), h [B, ...] to the same shape; weights from the global random stream."""
    count_params: Callable[[SlotSpec], int]
    """Exact number of trainable parameters."""
    version: int = 1
    """Raised when the meaning of an id changes."""

    def fits(self, spec: SlotSpec) -> bool:
        """Whether this blueprint may live in a slot."""
        return spec.layout in self.layouts
