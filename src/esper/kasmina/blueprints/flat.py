"""Blueprints for flat features [B, C] alone: a linear map that is 0 at birth stands last.

```
low_rank        U (D h)                     rank 8; U = 0 (Hu et al. 2022, LoRA, beside an activation)
```
mlp and mlp_small fit flat features as well as sequences, see `shared`.
"""

from __future__ import annotations

from torch import nn

from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_ONLY_FLAT = frozenset({Layout.FLAT})
_RANK = 8


def _build_low_rank(spec: SlotSpec) -> nn.Module:
    up = nn.Linear(_RANK, spec.num_channels, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(nn.Linear(spec.num_channels, _RANK, bias=False), up)


FLAT_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(
        id="low_rank",
        family="low_rank",
        layouts=_ONLY_FLAT,
        build=_build_low_rank,
        count_params=lambda spec: 2 * _RANK * spec.num_channels,
    ),
)
