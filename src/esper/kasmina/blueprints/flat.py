"""Blueprints for flat features [B, C]: every one ends in a linear map that is 0 at birth.

```
mlp, mlp_small  W2 relu(W1 h + b1) + b2     hidden 4 C and 2 C; W2, b2 = 0
low_rank        U (D h)                     rank 8; U = 0 (Hu et al. 2022, LoRA, beside an activation)
```
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_ONLY_FLAT = frozenset({Layout.FLAT})
_RANK = 8


def _mlp(expansion: int) -> Callable[[SlotSpec], nn.Module]:
    def build(spec: SlotSpec) -> nn.Module:
        c = spec.num_channels
        last = nn.Linear(expansion * c, c)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(c, expansion * c), nn.ReLU(), last)

    return build


def _count_mlp(expansion: int) -> Callable[[SlotSpec], int]:
    def count(spec: SlotSpec) -> int:
        c = spec.num_channels
        return 2 * expansion * c * c + expansion * c + c

    return count


def _build_low_rank(spec: SlotSpec) -> nn.Module:
    up = nn.Linear(_RANK, spec.num_channels, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(nn.Linear(spec.num_channels, _RANK, bias=False), up)


FLAT_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(id="mlp", family="mlp", layouts=_ONLY_FLAT, build=_mlp(4), count_params=_count_mlp(4)),
    BlueprintSpec(
        id="mlp_small", family="mlp", layouts=_ONLY_FLAT, build=_mlp(2), count_params=_count_mlp(2)
    ),
    BlueprintSpec(
        id="low_rank",
        family="low_rank",
        layouts=_ONLY_FLAT,
        build=_build_low_rank,
        count_params=lambda spec: 2 * _RANK * spec.num_channels,
    ),
)
