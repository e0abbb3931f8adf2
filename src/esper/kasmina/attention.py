"""Attention along a sequence in which no position sees a later one; part of hosts and of seeds."""

from __future__ import annotations

from typing import final

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
        read = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )  # [B, H, T, D]
        out: Tensor = self.project(read.transpose(1, 2).flatten(-2))
        return out
