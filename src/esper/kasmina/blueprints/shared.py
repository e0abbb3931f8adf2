"""Blueprints that fit several layouts, and the rule for group sizes of normalisation.

```
norm            tanh(g) (norm(h) - h)               g = 0
mlp, mlp_small  flat:      W2 relu(W1 h + b1) + b2  hidden 4 C and 2 C; W2, b2 = 0
                sequence:  W2 gelu(W1 norm(h) + b1) + b2, at every position by itself
```
On a sequence the MLP normalises first and uses the activation of the hosts that have sequences: it is one
more half of such a host's block.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_CHANNELS_PER_GROUP = 16
_GROUP_CHOICES = (32, 16, 8, 4, 2)
_MIN_NORMALISED_VALUES = 4


def choose_groups(num_channels: int) -> int:
    """Return the number of groups for a group norm: 16 channels a group or more, else one group for all.

    The largest of 32, 16, 8, 4, 2 that divides C and leaves at least 16 channels a group; 1 where none does.
    One group for fewer than 16 channels, not one group per channel: normalising each channel by itself
    throws away how strong the channels are beside each other (Wu and He 2018 compare the two ends of the
    scale), and on a 1x1 map it leaves nothing but the bias. So C = 8 and C = 16 behave alike.

    Args:
        num_channels: C.
    """
    for groups in _GROUP_CHOICES:
        if num_channels % groups == 0 and num_channels // groups >= _CHANNELS_PER_GROUP:
            return groups
    return 1


def has_values_to_normalise(spec: SlotSpec) -> bool:
    """Whether a norm over one item sees at least 4 values: C H W on a map, else C.

    A norm over one value returns its bias, and a ReLU after it is dead; over two it returns signs.
    """
    num_values = math.prod(spec.shape) if spec.layout is Layout.MAP_2D else spec.num_channels
    return num_values >= _MIN_NORMALISED_VALUES


class Nothing(nn.Module):
    """delta = 0: for tests and as the padding entry of an action table; always masked for policies."""

    def forward(self, h: Tensor) -> Tensor:
        """Return zeros like h."""
        return torch.zeros_like(h)


class GatedNorm(nn.Module):
    """delta = tanh(g) (norm(h) - h) with a scalar g = 0.

    g is live from the first step, the norm's own scale and shift from the second on.
    """

    def __init__(self, norm: nn.Module) -> None:
        """Wrap a norm that keeps shapes."""
        super().__init__()
        self.norm = norm
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, ...] to the same shape.

        The norm sees plain contiguous data: on the CPU, torch 2.13 crashes the process in the backward pass
        of a group norm over channels-last data that needs no gradient, which is what an isolated seed gets.
        """
        out: Tensor = torch.tanh(self.gate) * (self.norm(h.contiguous()) - h)
        return out


def _build_nothing(spec: SlotSpec) -> nn.Module:
    del spec
    return Nothing()


def _build_norm(spec: SlotSpec) -> nn.Module:
    if spec.layout is Layout.MAP_2D:
        return GatedNorm(nn.GroupNorm(choose_groups(spec.num_channels), spec.num_channels))
    return GatedNorm(nn.LayerNorm(spec.num_channels))


def _mlp(expansion: int) -> Callable[[SlotSpec], nn.Module]:
    def build(spec: SlotSpec) -> nn.Module:
        c = spec.num_channels
        last = nn.Linear(expansion * c, c)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if spec.layout is Layout.SEQUENCE:
            return nn.Sequential(nn.LayerNorm(c), nn.Linear(c, expansion * c), nn.GELU(), last)
        return nn.Sequential(nn.Linear(c, expansion * c), nn.ReLU(), last)

    return build


def _count_mlp(expansion: int) -> Callable[[SlotSpec], int]:
    def count(spec: SlotSpec) -> int:
        c = spec.num_channels
        norm = 2 * c if spec.layout is Layout.SEQUENCE else 0
        return norm + 2 * expansion * c * c + expansion * c + c

    return count


def _can_learn_mlp(spec: SlotSpec) -> bool:
    return spec.layout is not Layout.SEQUENCE or has_values_to_normalise(spec)


def _build_mlp_spec(blueprint_id: str, expansion: int) -> BlueprintSpec:
    return BlueprintSpec(
        id=blueprint_id,
        family="mlp",
        layouts=frozenset({Layout.FLAT, Layout.SEQUENCE}),
        build=_mlp(expansion),
        count_params=_count_mlp(expansion),
        accepts=_can_learn_mlp,
    )


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
        accepts=has_values_to_normalise,
    ),
    _build_mlp_spec("mlp", 4),
    _build_mlp_spec("mlp_small", 2),
)
