"""Attention along a sequence in which no position sees a later one; part of hosts and of seeds."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class CausalSelfAttention(nn.Module):
    """Every position reads those up to itself: softmax(q k^T / sqrt(D)) v over H heads of size D = C / H.

    Queries, keys and values have no bias: one on the keys would never get a gradient, because it shifts all
    scores of a query alike.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        """Build for streams [B, T, C] with C = `width`, a multiple of `num_heads`."""
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, T, C] to the same shape."""
        # Written without reading sizes: a traced input has none to read.
        query, key, value = self.mix(h).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)  # [B, T, H, D]
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        read = attend(query, key, value, self.dropout if self.training else 0.0)  # [B, H, T, D]
        out: Tensor = self.project(read.transpose(1, 2).flatten(-2))
        return out


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v [B, H, T, D] over positions up to each one's own."""
    precision = query.dtype
    # By identity, and before the device is asked: a traced input has neither, and must not be asked for one.
    if precision is torch.bfloat16 and query.device.type == "cpu":
        # torch's bf16 kernel for a CPU takes twice to five times as long as its float32 one where heads are
        # narrow and contexts short (docs/performance.md); autocast would cast its inputs back.
        with torch.autocast("cpu", enabled=False):
            return attend(query.float(), key.float(), value.float(), dropout).to(precision)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
