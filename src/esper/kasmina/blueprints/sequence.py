"""Blueprints for sequences [B, T, C] of a causal host: nothing at position t depends on a later one.

```
lora, lora_small   U (D h)                          rank 32 and 8; U = 0, no activation in between
mlp, mlp_small     W2 gelu(W1 norm(h) + b1) + b2    hidden 4 C and 2 C; W2, b2 = 0 (see `shared`)
causal_attention   P attention(norm(h))             H heads, no position sees a later one; P = 0
```
lora is what Hu et al. (2022) add to a frozen map: a product of two narrow maps and nothing between them. Its
branch is the cheapest one and can only turn what is linear in h; whoever needs more takes mlp. It does not
normalise h, so that it stays linear. Branches that are not linear normalise first, as the blocks of a
pre-norm host do: the stream between blocks grows with depth, and a step must not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from esper.kasmina.attention import CausalSelfAttention
from esper.kasmina.blueprints.shared import has_values_to_normalise
from esper.kasmina.blueprints.spec import BlueprintSpec, SlotSpec
from esper.leyline import Layout

_ONLY_SEQUENCES = frozenset({Layout.SEQUENCE})
_HEAD_CHOICES = (8, 4, 2)
_MIN_HEAD_WIDTH = 16


def choose_heads(num_channels: int) -> int:
    """Return the number of attention heads: the most of 8, 4, 2 that divide C and leave 16 channels or more.

    One head where none does: a head of a few channels can hardly tell positions apart.

    Args:
        num_channels: C.
    """
    for heads in _HEAD_CHOICES:
        if num_channels % heads == 0 and num_channels // heads >= _MIN_HEAD_WIDTH:
            return heads
    return 1


def has_positions_to_read(spec: SlotSpec) -> bool:
    """Whether attention has something to choose from: two positions or more, and values to normalise."""
    return spec.shape[0] >= 2 and has_values_to_normalise(spec)


def _lora(rank: int) -> Callable[[SlotSpec], nn.Module]:
    def build(spec: SlotSpec) -> nn.Module:
        up = nn.Linear(rank, spec.num_channels, bias=False)
        nn.init.zeros_(up.weight)
        return nn.Sequential(nn.Linear(spec.num_channels, rank, bias=False), up)

    return build


def _count_lora(rank: int) -> Callable[[SlotSpec], int]:
    return lambda spec: 2 * rank * spec.num_channels


def _build_causal_attention(spec: SlotSpec) -> nn.Module:
    attention = CausalSelfAttention(spec.num_channels, choose_heads(spec.num_channels))
    nn.init.zeros_(attention.project.weight)
    nn.init.zeros_(attention.project.bias)
    return nn.Sequential(nn.LayerNorm(spec.num_channels), attention)


SEQUENCE_BLUEPRINTS: tuple[BlueprintSpec, ...] = (
    BlueprintSpec(
        id="lora", family="lora", layouts=_ONLY_SEQUENCES, build=_lora(32), count_params=_count_lora(32)
    ),
    BlueprintSpec(
        id="lora_small", family="lora", layouts=_ONLY_SEQUENCES, build=_lora(8), count_params=_count_lora(8)
    ),
    BlueprintSpec(
        id="causal_attention",
        family="causal_attention",
        layouts=_ONLY_SEQUENCES,
        build=_build_causal_attention,
        count_params=lambda spec: 4 * spec.num_channels**2 + 3 * spec.num_channels,
        accepts=has_positions_to_read,
    ),
)
