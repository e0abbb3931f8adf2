"""Models with pairs of layers as other people write them, and what grows between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import MorphogeneticModel, PointWishes, find_growth_points
from kasmina.growing import draw, make_model, stir

ROWS = draw(4, 6, seed=1)
IMAGES = draw(4, 3, 9, 9, seed=2)


class Mlp(nn.Module):
    """Rows [B, 6] to 3 outputs by way of 8 and 8 units, with functions between the layers."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8, bias=bias), nn.Linear(8, 8, bias=bias)
        self.fc3 = nn.Linear(8, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(F.gelu(self.fc2(F.relu(self.fc1(x)))))
        return out


def two_linear(*between: nn.Module, bias: bool = True, units: int = 8) -> nn.Module:
    """Return Linear, what is given, Linear, ReLU, Linear on rows of 6."""
    return nn.Sequential(
        nn.Linear(6, units, bias=bias), *between, nn.Linear(units, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3)
    )


def two_convs(*between: nn.Module, bias: bool = False, stride: int = 1, padding: str = "zeros") -> nn.Module:
    """Return Conv2d, what is given, Conv2d, a norm, and a head, on images of 3 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride, 1, bias=bias, padding_mode=padding),  # type: ignore[arg-type]
        *between,
        nn.Conv2d(8, 6, 3, stride, 2, dilation=2, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def spanning(host: nn.Module, sample: Tensor, *at: str, incubation: str = "residual") -> MorphogeneticModel:
    """Return a model with a dormant slot at each pair of layers."""
    found = find_growth_points(host, sample, PointWishes(at=at))
    points = tuple(item.point for item in found)
    return make_model(host, sample=sample, points=points, incubation=incubation)


def wake(model: nn.Module, sample: Tensor, *, seed: int = 5) -> None:
    """Give all parameters random values, and norms statistics of their own."""
    stir(model, seed)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(sample)
    model.eval()
