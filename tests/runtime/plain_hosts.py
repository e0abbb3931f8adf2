"""Models of users in a file that never saw this package: what an export must be loadable with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A convolution with a shortcut."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(num_out)
        self.shortcut = nn.Conv2d(num_in, num_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + self.shortcut(x))


class Images(nn.Module):
    """Images [B, 3, H, W] to 5 logits; branches on the batch's size, which no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(Residual(3, 8, 1), Residual(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x).flatten(2).mean(dim=2)
        if x.shape[0] > 1:
            x = x + 0.0
        out: Tensor = self.fc(x)
        return out


class Layer(nn.Module):
    """Attention and a two-layer net; returns (hidden, weights), takes a mask by name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed, weights = self.attention(hidden, hidden, hidden, key_padding_mask=mask)
        return self.norm(hidden + mixed + self.mlp(hidden)), weights


class Tokens(nn.Module):
    """Token ids and a mask, by name, to a mapping with "logits" and "hidden"."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Layer(8), Layer(8)])
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden, _ = layer(hidden, mask=attention_mask == 0)
        return {"logits": self.head(hidden[:, 0]), "hidden": hidden}
