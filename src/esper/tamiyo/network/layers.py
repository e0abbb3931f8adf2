"""Small parts of the network: plain layers, families, attention among slots, masked means.

Shapes: N rows, S slots, T units of a token. What is masked out has no part in any result, NaN included.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn


def build_mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers from size to size with a ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the dimension before the last, of what is not masked; 0 where nothing is left.

    Args:
        values: [..., K, T].
        mask: [..., K] bool, True = counts.
    """
    kept = values.masked_fill(~mask[..., None], 0.0).sum(dim=-2)
    return kept / mask.sum(dim=-1, keepdim=True).clamp(min=1).to(kept.dtype)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum over the dimension before the last, of what is not masked; 0 where nothing is left.

    Args:
        values: [..., K, T].
        mask: [..., K] bool, True = counts.
    """
    largest = values.masked_fill(~mask[..., None], torch.finfo(values.dtype).min).amax(dim=-2)
    return largest.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)


@final
class FamilyEmbedding(nn.Module):
    """Families as vectors; 0, and every family that it was not built for, is the zero vector."""

    def __init__(self, num_families: int, size: int) -> None:
        """Make room for `num_families` known families, `size` units each."""
        super().__init__()
        self._num_families = num_families
        self.table = nn.Embedding(num_families + 1, size, padding_idx=0)

    def forward(self, families: Tensor) -> Tensor:
        """Return [..., size] for indices [...] int64: 1 + the place in the table of families."""
        vectors: Tensor = self.table(families.masked_fill(families > self._num_families, 0))
        return vectors


@final
class SlotAttention(nn.Module):
    """One layer of attention among the slots of a host (Vaswani et al. 2017), normalised before each part.

    Slots are a set: exchanging two of them exchanges their results. Written out, because a fused kernel may
    answer NaN for a host without any slot.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        """Build for tokens of `size` units, a multiple of `num_heads`."""
        super().__init__()
        self._num_heads = num_heads
        self.norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = build_mlp(size, 2 * size, size)

    def forward(self, tokens_NST: Tensor, exists_NS: Tensor) -> Tensor:
        """Return new tokens [N, S, T]; those of slots that do not exist are 0.

        Args:
            tokens_NST: Finite where a slot does not exist.
            exists_NS: bool.
        """
        num_rows, num_slots, size = tokens_NST.shape
        width = size // self._num_heads
        qkv = self.qkv(self.norm(tokens_NST)).view(num_rows, num_slots, 3, self._num_heads, width)
        query, key, value = qkv.unbind(dim=2)
        scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(width)
        absent = ~exists_NS[:, None, None, :]
        weights = torch.softmax(scores.masked_fill(absent, torch.finfo(scores.dtype).min), dim=-1)
        # Exactly 0, also for a host without any slot, whose softmax is uniform over the absent ones.
        weights = weights.masked_fill(absent, 0.0)
        mixed = torch.einsum("nhqk,nkhd->nqhd", weights.to(value.dtype), value)
        tokens = tokens_NST + self.out(mixed.reshape(num_rows, num_slots, size))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        finished: Tensor = tokens.masked_fill(~exists_NS[..., None], 0.0)
        return finished
