"""Blueprints for 2d maps [B, C, H, W].

Each ends in an un-normalised linear map that is 0 at birth, or in a gate after the last activation: delta is
exactly 0, and nothing after the zero has a zero derivative there.

```
attention   h tanh(W2 relu(W1 pool(h)))            W2, b2 = 0
depthwise   P relu(GN(1x1(dw3x3(h))))              P: 1x1 projection, 0 at birth
conv_small  P relu(GN(1x1(h)))
conv_light  P relu(GN(conv3x3(h)))
conv_heavy  P relu(GN(conv3x3(relu(GN(conv3x3(h))))))
bottleneck  up(relu(GN(3x3(relu(down(h))))))       up = 0, no norm after it
```
A zero in front of a norm would be no gentle start: the norm blows any tiny weight up to unit size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.shared import choose_groups, has_values_to_normalise
from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_ONLY_MAPS = frozenset({Layout.MAP_2D})
_MIN_BOTTLENECK = 8
_REDUCTION = 4


class SqueezeExcite(nn.Module):
    """delta = h * tanh(W2 relu(W1 pool(h))): channel attention (Hu et al. 2018) as a residual."""

    def __init__(self, num_channels: int) -> None:
        """Build for C channels with a bottleneck of max(1, C // 4)."""
        super().__init__()
        width = max(1, num_channels // _REDUCTION)
        self.reduce = nn.Linear(num_channels, width)
        self.expand = nn.Linear(width, num_channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, C, H, W] to the same shape."""
        pooled = h.mean(dim=(2, 3))  # [B, C]
        scale = torch.tanh(self.expand(torch.relu(self.reduce(pooled))))  # [B, C]
        return h * scale.unsqueeze(-1).unsqueeze(-1)


def _conv(num_in: int, num_out: int, size: int, *, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, size, padding=size // 2, groups=groups, bias=False)


def _zero_projection(num_in: int, num_out: int) -> nn.Conv2d:
    projection = _conv(num_in, num_out, 1)
    nn.init.zeros_(projection.weight)
    return projection


def _norm(num_channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(choose_groups(num_channels), num_channels)


def _projected(num_channels: int, interiors: Sequence[Sequence[nn.Module]]) -> nn.Module:
    layers: list[nn.Module] = []
    for interior in interiors:
        layers += [*interior, _norm(num_channels), nn.ReLU()]
    return nn.Sequential(*layers, _zero_projection(num_channels, num_channels))


def _build_attention(spec: SlotSpec) -> nn.Module:
    return SqueezeExcite(spec.num_channels)


def _build_depthwise(spec: SlotSpec) -> nn.Module:
    c = spec.num_channels
    return _projected(c, [[_conv(c, c, 3, groups=c), _conv(c, c, 1)]])


def _build_conv_small(spec: SlotSpec) -> nn.Module:
    c = spec.num_channels
    return _projected(c, [[_conv(c, c, 1)]])


def _build_conv_light(spec: SlotSpec) -> nn.Module:
    c = spec.num_channels
    return _projected(c, [[_conv(c, c, 3)]])


def _build_conv_heavy(spec: SlotSpec) -> nn.Module:
    c = spec.num_channels
    return _projected(c, [[_conv(c, c, 3)], [_conv(c, c, 3)]])


def _bottleneck_width(num_channels: int) -> int:
    return max(_MIN_BOTTLENECK, num_channels // _REDUCTION)


def _build_bottleneck(spec: SlotSpec) -> nn.Module:
    c, m = spec.num_channels, _bottleneck_width(spec.num_channels)
    return nn.Sequential(
        _conv(c, m, 1), nn.ReLU(), _conv(m, m, 3), _norm(m), nn.ReLU(), _zero_projection(m, c)
    )


def _count_attention(spec: SlotSpec) -> int:
    c, r = spec.num_channels, max(1, spec.num_channels // _REDUCTION)
    return 2 * c * r + r + c


def _count_bottleneck(spec: SlotSpec) -> int:
    c, m = spec.num_channels, _bottleneck_width(spec.num_channels)
    return 2 * c * m + 9 * m * m + 2 * m


IMAGE_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(
        id="attention",
        family="attention",
        layouts=_ONLY_MAPS,
        build=_build_attention,
        count_params=_count_attention,
    ),
    BlueprintSpec(
        id="depthwise",
        family="depthwise",
        layouts=_ONLY_MAPS,
        build=_build_depthwise,
        count_params=lambda spec: 2 * spec.num_channels**2 + 11 * spec.num_channels,
        accepts=has_values_to_normalise,
    ),
    BlueprintSpec(
        id="conv_small",
        family="conv",
        layouts=_ONLY_MAPS,
        build=_build_conv_small,
        count_params=lambda spec: 2 * spec.num_channels**2 + 2 * spec.num_channels,
        accepts=has_values_to_normalise,
    ),
    BlueprintSpec(
        id="conv_light",
        family="conv",
        layouts=_ONLY_MAPS,
        build=_build_conv_light,
        count_params=lambda spec: 10 * spec.num_channels**2 + 2 * spec.num_channels,
        accepts=has_values_to_normalise,
    ),
    BlueprintSpec(
        id="conv_heavy",
        family="conv",
        layouts=_ONLY_MAPS,
        build=_build_conv_heavy,
        count_params=lambda spec: 19 * spec.num_channels**2 + 4 * spec.num_channels,
        accepts=has_values_to_normalise,
    ),
    BlueprintSpec(
        id="bottleneck",
        family="bottleneck",
        layouts=_ONLY_MAPS,
        build=_build_bottleneck,
        count_params=_count_bottleneck,
    ),
)
