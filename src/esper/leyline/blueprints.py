"""What a blueprint is to a policy: an id, a family, the layouts it fits, and its costs in one slot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final


@final
class Layout(Enum):
    """How a feature tensor is laid out at a slot."""

    MAP_2D = "2d"
    """[B, C, H, W]."""
    SEQUENCE = "sequence"
    """[B, T, C]."""
    FLAT = "flat"
    """[B, C]."""


BLUEPRINT_FAMILIES: tuple[str, ...] = (
    "noop",
    "norm",
    "attention",
    "depthwise",
    "conv",
    "bottleneck",
    "mlp",
    "low_rank",
    "lora",
    "causal_attention",
    "flex_attention",
    "width",
)
"""All family ids, reserved from the start so that saved policies stay readable; a family outside this table
embeds to zero and is described by its cost features alone. Appended to, never reordered."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintDescriptor:
    """One blueprint as a policy sees it in one slot.

    Example:
        BlueprintDescriptor(id="conv_light", family="conv", num_params=37056, flops_per_item=9437184)
    """

    id: str
    """Unique name, e.g. "conv_light"."""
    family: str
    """One of `BLUEPRINT_FAMILIES`, or a user's own family."""
    num_params: int
    """Trainable parameters that a seed of this blueprint adds in this slot."""
    flops_per_item: int
    """Forward FLOPs per sample in this slot (2 per multiply-add)."""
    memory_bytes: int = 0
    """Bytes that training a seed of it adds at its peak (an estimate); 0 = not counted, memory is ample."""
