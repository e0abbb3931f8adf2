"""A plain multi-layer host for flat inputs: a growth point after each hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from esper.kasmina.config import require_range
from esper.kasmina.hosts.protocol import InjectionPoint
from esper.leyline import ConfigError, Layout, suggest

NORM_NAMES = ("none", "batch", "layer")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MLPHostConfig:
    """Shape of an `MLPHost`."""

    num_inputs: int
    """Features of one input after flattening, >= 1."""
    num_classes: int
    """Outputs, >= 1."""
    hidden: tuple[int, ...] = (32, 32)
    """Units of the hidden layers, at least one, each >= 1; two of 32 give two growth points and run
    fast on a CPU."""
    norm: str = "none"
    """"none", "batch" or "layer", before each activation."""
    dropout: float = 0.0
    """Probability after each activation, in [0, 1); 0: hosts are too small to overfit first."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        require_range("model", "num_inputs", self.num_inputs, 1, 2**31)
        require_range("model", "num_classes", self.num_classes, 1, 65536)
        require_range("model", "dropout", self.dropout, 0.0, 0.99)
        if not self.hidden:
            raise ConfigError("model.hidden is empty: give at least one width, e.g. [32, 32]")
        for width in self.hidden:
            require_range("model", "hidden", width, 1, 65536)
        if self.norm not in NORM_NAMES:
            raise ConfigError(f"model.norm={self.norm!r}: {suggest(self.norm, NORM_NAMES)}")


@final
class MLPHost(nn.Module):
    """Inputs [B, ...] (flattened) to outputs [B, num_classes]."""

    def __init__(self, config: MLPHostConfig) -> None:
        """Build the layers; weights come from the global random stream."""
        super().__init__()
        self.config = config
        num_in = config.num_inputs
        for index, width in enumerate(config.hidden):
            self.add_module(f"hidden{index + 1}", _build_layer(config, num_in, width, is_first=index == 0))
            num_in = width
        self.head = nn.Linear(num_in, config.num_classes)

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        """Return the hidden layers and the head, in forward order."""
        names = [f"hidden{index + 1}" for index in range(len(self.config.hidden))]
        return (*((name, self.get_submodule(name)) for name in names), ("head", self.head))

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return one point after each hidden layer."""
        return tuple(
            InjectionPoint(
                slot_id=f"hidden{index + 1}",
                path=f"hidden{index + 1}",
                layout=Layout.FLAT,
                num_channels=width,
            )
            for index, width in enumerate(self.config.hidden)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [B, num_classes]."""
        hidden = inputs
        for _, segment in self.segments():
            hidden = segment(hidden)
        return hidden


def _build_layer(config: MLPHostConfig, num_in: int, width: int, *, is_first: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()] if is_first else []
    layers.append(nn.Linear(num_in, width))
    if config.norm == "batch":
        layers.append(nn.BatchNorm1d(width))
    elif config.norm == "layer":
        layers.append(nn.LayerNorm(width))
    layers.append(nn.ReLU())
    if config.dropout > 0.0:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)
