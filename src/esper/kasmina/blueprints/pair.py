"""Two layers of a host with what lies between them, as plain data, and units of the same kind.

```
x > first > between > second > out        first, second: linear, or 2d convolutions of one group
x > first > between > second              the same with a number of new hidden units, second = 0
```
The second layer is linear in its units, so new units of the pair add to its output, whatever the old ones do.
That holds where `between` treats every unit by itself; who makes a plan has checked it. Knows no host.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvPlan:
    """How a 2d convolution of one group walks over its input."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    padding_mode: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One of the two layers."""

    path: str
    """In the host."""
    num_in: int
    """Features, or channels, that it takes."""
    num_out: int
    """Features, or channels, that it returns."""
    has_bias: bool
    conv: ConvPlan | None = None
    """None = a linear layer."""

    def build(self, num_in: int, num_out: int, *, bias: bool) -> nn.Module:
        """Return a layer that walks as this one does, over other counts; weights as torch draws them."""
        if self.conv is None:
            return nn.Linear(num_in, num_out, bias=bias)
        return nn.Conv2d(
            num_in,
            num_out,
            kernel_size=self.conv.kernel_size,  # type: ignore[arg-type]
            stride=self.conv.stride,  # type: ignore[arg-type]
            padding=self.conv.padding,  # type: ignore[arg-type]
            dilation=self.conv.dilation,  # type: ignore[arg-type]
            padding_mode=self.conv.padding_mode,  # type: ignore[arg-type]
            bias=bias,
        )

    @property
    def num_taps(self) -> int:
        """Weights between one unit of the input and one of the output."""
        taps = 1
        for size in () if self.conv is None else self.conv.kernel_size:
            taps *= size
        return taps


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NormPlan:
    """A norm between the layers that treats every unit, or every group of units, by itself."""

    path: str
    """In the host."""
    kind: str
    """"batch_1d", "batch_2d" or "group"."""
    epsilon: float
    is_affine: bool
    group_size: int = 1
    """Units that a group norm normalises together; 1 for a batch norm."""
    momentum: float | None = None
    """Of running statistics; None = their plain average. Batch norms only."""
    has_statistics: bool = True
    """Whether a batch norm keeps them."""

    def build(self, num_units: int) -> nn.Module:
        """Return a norm of this kind over new units alone."""
        if self.kind == "group":
            groups = num_units // self.group_size
            return nn.GroupNorm(groups, num_units, eps=self.epsilon, affine=self.is_affine)
        kind = nn.BatchNorm1d if self.kind == "batch_1d" else nn.BatchNorm2d
        return kind(
            num_units,
            eps=self.epsilon,
            momentum=self.momentum,
            affine=self.is_affine,
            track_running_stats=self.has_statistics,
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairPlan:
    """What a slot that spans two layers was found to span."""

    first: LayerPlan
    """Its rows become more, one per new unit."""
    second: LayerPlan
    """Its columns become more, one per new unit."""
    between: tuple[NormPlan | nn.Module, ...]
    """In order; modules have no parameter and treat every unit by itself."""
    shape: tuple[int, ...]
    """One item's input of the first layer as seeds see it: (C, H, W), (T, C) or (C,)."""
    inner_paths: frozenset[str] = frozenset()
    """Modules of the host that return the hidden units: nothing else can grow on what becomes wider."""

    @property
    def norms(self) -> tuple[NormPlan, ...]:
        """The norms among what lies between."""
        return tuple(step for step in self.between if isinstance(step, NormPlan))

    @property
    def unit_step(self) -> int:
        """New units come in multiples of this, so that old and new ones share no group of a norm."""
        return max((norm.group_size for norm in self.norms), default=1)

    @property
    def is_channels_last_map(self) -> bool:
        """Whether linear layers act on maps, whose channels then stand last in the host."""
        return self.first.conv is None and len(self.shape) == 3

    def count_units(self, divisor: int) -> int:
        """Return the number of new units: a part of those that there are, at least one step."""
        return self.unit_step * max(1, self.first.num_out // divisor // self.unit_step)


@final
class WidthBranch(nn.Module):
    """delta(x) of new hidden units of a pair: x [B, ...] before the first layer to [B, ...] after the second.

    Example:
        WidthBranch(plan, 16)   # sixteen more units; delta is 0 until it learns
    """

    def __init__(self, plan: PairPlan, num_units: int) -> None:
        """Draw the units' weights; what the second layer makes of them is 0."""
        super().__init__()
        self.first = plan.first.build(plan.first.num_in, num_units, bias=plan.first.has_bias)
        self.between = nn.Sequential(*(_build_step(step, num_units) for step in plan.between))
        self.second = plan.second.build(num_units, plan.second.num_out, bias=False)
        assert isinstance(self.second.weight, nn.Parameter)
        nn.init.zeros_(self.second.weight)
        self.is_channels_last_map = plan.is_channels_last_map

    def forward(self, x: Tensor) -> Tensor:
        """Map the first layer's input to what the new units add to the second layer's output."""
        entering = x.permute(0, 2, 3, 1) if self.is_channels_last_map else x
        out: Tensor = self.second(self.between(self.first(entering)))
        return out.permute(0, 3, 1, 2) if self.is_channels_last_map else out


def _build_step(step: NormPlan | nn.Module, num_units: int) -> nn.Module:
    return step.build(num_units) if isinstance(step, NormPlan) else copy.deepcopy(step)


def count_width_params(plan: PairPlan, num_units: int) -> int:
    """Return the exact number of trainable parameters of that many new units."""
    first, second = plan.first, plan.second
    per_unit = first.num_in * first.num_taps + second.num_out * second.num_taps + int(first.has_bias)
    per_unit += sum(2 for norm in plan.norms if norm.is_affine)
    return num_units * per_unit
