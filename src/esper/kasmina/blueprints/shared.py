"""Blueprints that fit several layouts, and the rule for group sizes of normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_CHANNELS_PER_GROUP = 16
_MIN_VALUES_PER_GROUP = 4
_GROUP_CHOICES = (32, 16, 8, 4, 2, 1)


def choose_groups(num_channels: int, num_positions: int) -> int:
    """Return the number of groups for a group norm.

    The largest of 32, 16, 8, 4, 2, 1 that divides C and leaves at least 16 channels a group; where none does,
    one group for all channels. Fewer if a group would hold under 4 values of a sample, because a group of
    one value normalises to its bias (one channel on a 1x1 map).

    Args:
        num_channels: C.
        num_positions: H * W, or 1.
    """
    for groups in _GROUP_CHOICES:
        per_group = num_channels // groups
        if num_channels % groups or per_group < min(_CHANNELS_PER_GROUP, num_channels):
            continue
        if per_group * num_positions >= _MIN_VALUES_PER_GROUP:
            return groups
    return 1


class Nothing(nn.Module):
    """delta = 0: for tests and as the padding entry of an action table; always masked for policies."""

    def forward(self, h: Tensor) -> Tensor:
        """Return zeros like h."""
        return torch.zeros_like(h)


class GatedNorm(nn.Module):
    """delta = tanh(g) (norm(h) - h) with a scalar g = 0: the norm's own scale and shift are live from the
    second step on, g from the first."""

    def __init__(self, norm: nn.Module) -> None:
        """Wrap a norm that keeps shapes."""
        super().__init__()
        self.norm = norm
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, ...] to the same shape."""
        out: Tensor = torch.tanh(self.gate) * (self.norm(h) - h)
        return out


def _build_nothing(spec: SlotSpec) -> nn.Module:
    del spec
    return Nothing()


def _build_norm(spec: SlotSpec) -> nn.Module:
    if spec.layout is Layout.MAP_2D:
        _, height, width = spec.shape
        groups = choose_groups(spec.num_channels, height * width)
        return GatedNorm(nn.GroupNorm(groups, spec.num_channels))
    return GatedNorm(nn.LayerNorm(spec.num_channels))


SHARED_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(
        id="noop",
        family="noop",
        layouts=frozenset(Layout),
        build=_build_nothing,
        count_params=lambda spec: 0 * spec.num_channels,
    ),
    BlueprintSpec(
        id="norm",
        family="norm",
        layouts=frozenset(Layout),
        build=_build_norm,
        count_params=lambda spec: 2 * spec.num_channels + 1,
    ),
)
