"""Seeds that are never trained and worth nothing: what counterfactuals must not be fooled by."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

OFFSET = 3.0


@final
class ConstantOffset(nn.Module):
    """A frozen constant per channel, of alternating sign: a batch norm behind it takes it away."""

    offset: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        signs = torch.tensor([1.0 if channel % 2 else -1.0 for channel in range(num_channels)])
        self.register_buffer("offset", OFFSET * signs.reshape(1, -1, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Return the constant in the shape of h [B, C, H, W]."""
        return self.offset.expand_as(h)


@final
class FrozenNoise(nn.Module):
    """A random 3x3 convolution that is never trained, |delta| = size |h| on every batch."""

    weight: Tensor

    def __init__(self, num_channels: int, size: float) -> None:
        super().__init__()
        self._size = size
        self.register_buffer("weight", torch.randn(num_channels, num_channels, 3, 3))

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, C, H, W] to the same shape."""
        delta = nn.functional.conv2d(h, self.weight, padding=1)
        scaled: Tensor = delta * (self._size * h.norm() / delta.norm())
        return scaled
