"""A plain convolutional host: blocks of conv, norm, ReLU (and pooling), global average pool, linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from esper.kasmina.config import require_range
from esper.kasmina.hosts.protocol import InjectionPoint
from esper.leyline import ConfigError, Layout, suggest

NORM_NAMES = ("batch", "group", "none")
_MAX_GROUPS = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CNNHostConfig:
    """Shape of a `CNNHost`; block i has base_channels * 2**i channels."""

    in_channels: int
    """Channels of the image, >= 1."""
    num_classes: int
    """Outputs, >= 1."""
    base_channels: int = 8
    """Channels of the first block, >= 1; small on purpose, growth adds what is missing."""
    num_blocks: int = 3
    """Blocks, >= 2, with one growth point after each; 3 leave a choice of places."""
    kernel_size: int = 3
    """Pixels along a side, odd, >= 1; 3 is the smallest that sees its neighbours."""
    num_pools: int = 3
    """How many first blocks end in a 2x2 max-pool, >= 0; one per block: each halves height and width."""
    norm: str = "batch"
    """"batch", "group" or "none"."""
    dropout: float = 0.0
    """Probability before the head, in [0, 1); 0: hosts are too small to overfit first."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low in (
            ("in_channels", 1),
            ("num_classes", 1),
            ("base_channels", 1),
            ("num_blocks", 2),
            ("kernel_size", 1),
            ("num_pools", 0),
        ):
            require_range("model", name, getattr(self, name), low, 65536)
        require_range("model", "dropout", self.dropout, 0.0, 0.99)
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"model.kernel_size={self.kernel_size}: must be odd, e.g. 3")
        if self.norm not in NORM_NAMES:
            raise ConfigError(f"model.norm={self.norm!r}: {suggest(self.norm, NORM_NAMES)}")


@final
class CNNHost(nn.Module):
    """Images [B, in_channels, H, W] to logits [B, num_classes]; a growth point after each block."""

    def __init__(self, config: CNNHostConfig) -> None:
        """Build the blocks; weights come from the global random stream."""
        super().__init__()
        self.config = config
        num_in = config.in_channels
        for index in range(config.num_blocks):
            num_out = config.base_channels * 2**index
            self.add_module(f"block{index + 1}", _build_block(config, num_in, num_out, index))
            num_in = num_out
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *([nn.Dropout(config.dropout)] if config.dropout > 0.0 else []),
            nn.Linear(num_in, config.num_classes),
        )

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        """Return the blocks and the head, in forward order."""
        names = [f"block{index + 1}" for index in range(self.config.num_blocks)]
        return (*((name, self.get_submodule(name)) for name in names), ("head", self.head))

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return one point after each block (after its pooling)."""
        return tuple(
            InjectionPoint(
                slot_id=f"block{index + 1}",
                path=f"block{index + 1}",
                layout=Layout.MAP_2D,
                num_channels=self.config.base_channels * 2**index,
            )
            for index in range(self.config.num_blocks)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, num_classes]."""
        hidden = inputs
        for _, segment in self.segments():
            hidden = segment(hidden)
        return hidden


def _build_block(config: CNNHostConfig, num_in: int, num_out: int, index: int) -> nn.Sequential:
    size = config.kernel_size
    layers: list[nn.Module] = [
        nn.Conv2d(num_in, num_out, size, padding=size // 2, bias=config.norm == "none")
    ]
    if config.norm == "batch":
        layers.append(nn.BatchNorm2d(num_out))
    elif config.norm == "group":
        groups = next(g for g in range(min(_MAX_GROUPS, num_out), 0, -1) if num_out % g == 0)
        layers.append(nn.GroupNorm(groups, num_out))
    layers.append(nn.ReLU())
    if index < config.num_pools:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
