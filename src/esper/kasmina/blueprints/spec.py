"""What a blueprint is built for, and what it is: an id, a family, its layouts, a builder, a count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch
from torch import nn

from esper.kasmina.blueprints.pair import PairPlan
from esper.leyline import BlendForm, ConfigError, Layout

_RANKS = MappingProxyType({Layout.MAP_2D: 3, Layout.SEQUENCE: 2, Layout.FLAT: 1})


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
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pair: PairPlan | None = None
    """The two layers that a slot spans; None = seeds take the feature itself."""

    @property
    def seed_shape(self) -> tuple[int, ...]:
        """What a seed takes, per item: the feature, or the input of the first of two layers."""
        return self.shape if self.pair is None else self.pair.shape

    def refuse_blend(self, form: BlendForm) -> str | None:
        """Return why a residual may not enter in a form here; None if it may."""
        if self.pair is None or form is BlendForm.ADD:
            return None
        return (
            f"slot {self.slot_id!r} spans two layers, whose new units add to the output as the old ones do: "
            f"blend={form.value!r} would make something else of them, use 'add'"
        )

    def __post_init__(self) -> None:
        """Check that shape, layout and channels agree.

        Raises:
            ConfigError: If the shape has another rank than the layout's, a size < 1, or another C.
        """
        rank = _RANKS[self.layout]
        if len(self.shape) != rank or min(self.shape) < 1:
            raise ConfigError(
                f"slot {self.slot_id!r}: layout {self.layout.value!r} needs {rank} sizes >= 1, "
                f"got {self.shape}"
            )
        channels = self.shape[0] if self.layout is Layout.MAP_2D else self.shape[-1]
        if channels != self.num_channels:
            raise ConfigError(
                f"slot {self.slot_id!r}: num_channels={self.num_channels}, but {self.shape} has {channels}"
            )


def fits_any_slot(spec: SlotSpec) -> bool:
    """Accept every slot: what a blueprint without a condition of its own says."""
    del spec
    return True


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
    accepts: Callable[[SlotSpec], bool] = fits_any_slot
    """Whether the branch can learn in a slot of a fitting layout; False e.g. where a norm sees one value."""
    spans_pair: bool = False
    """Whether it maps the input of one layer to the output of another, for slots that span two."""

    def __post_init__(self) -> None:
        """Check that the recipe can be named and used.

        Raises:
            ConfigError: If id or family is empty, no layout is named, or the version is < 1.
        """
        if not self.id or not self.family:
            raise ConfigError(f"blueprint id={self.id!r}, family={self.family!r}: neither may be empty")
        if not self.layouts:
            raise ConfigError(f"blueprint {self.id!r} names no layout, so it fits no slot: give at least one")
        if self.version < 1:
            raise ConfigError(f"blueprint {self.id!r}: version={self.version}, must be >= 1")

    def fits(self, spec: SlotSpec) -> bool:
        """Whether this blueprint may live in a slot."""
        is_kind = (spec.pair is not None) == self.spans_pair
        return is_kind and spec.layout in self.layouts and self.accepts(spec)
