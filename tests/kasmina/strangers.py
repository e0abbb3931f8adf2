"""Models as other people write them: no protocol, control flow, tuples, axes of their own."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.kasmina import build_seeded


class Block(nn.Module):
    """Two convolutions with norms, a shortcut, and activations that work in place."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Conv2d(num_in, num_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return torch.relu_(out)


class SmallResNet(nn.Module):
    """Images [B, 3, H, W] to 5 logits; branches on the batch's size, which no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            nn.Sequential(Block(8, 8, 1), Block(8, 8, 1)), nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        )
        self.neck = nn.Conv2d(16, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        x = torch.relu_(self.neck(x))
        x = self.pool(x).flatten(1)
        if x.shape[0] > 1:
            x = x + 0.0
        out: Tensor = self.fc(x)
        return out


class EncoderLayer(nn.Module):
    """Attention and a two-layer net; returns (hidden, weights), takes a mask by name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed, weights = self.attention(hidden, hidden, hidden, key_padding_mask=mask)
        hidden = self.norm1(hidden + mixed)
        return self.norm2(hidden + self.mlp(hidden)), weights


class Encoder(nn.Module):
    """Token ids and a mask, by name, to an ordered mapping with "logits" and "hidden"."""

    def __init__(self, width: int = 8, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList([EncoderLayer(width) for _ in range(num_layers)])
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> OrderedDict[str, Tensor]:
        hidden = self.embed(input_ids)
        mask = None if attention_mask is None else attention_mask == 0
        for layer in self.layers:
            hidden, _ = layer(hidden, mask=mask)
        return OrderedDict(logits=self.head(hidden[:, 0]), hidden=hidden)


class Wave(nn.Module):
    """Signals [B, 1, T] through convolutions over time to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, 6, 5, padding=2), nn.Conv1d(6, 6, 5, padding=2)
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        out: Tensor = self.head(hidden.mean(dim=2))
        return out


class Patches(nn.Module):
    """Images to a channels-last map and back: [B, H, W, C] passes at `mix`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.mix = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x).permute(0, 2, 3, 1)
        hidden = hidden + self.mix(hidden)
        out: Tensor = self.head(hidden.mean(dim=(1, 2)))
        return out


class Pair(NamedTuple):
    """What `Recurrent.step` returns."""

    hidden: Tensor
    length: int


class Shared(nn.Module):
    """One layer that is called three times, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.never, self.once = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.again(x))
        out: Tensor = self.head(torch.relu(self.once(x)))
        return out


def build(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """Return a model with weights that follow from the seed."""
    return build_seeded(kind, seed)
