"""Linear maps and lookups of R rows: linear, 2d convolution, embedding.

```
Linear      [R, N, in] @ [R, in, out] + [R, 1, out]       baddbmm, whatever the stride between rows
Conv2d      R g groups over [B, R C, H, W]                a wide network's convolution
Embedding   row r looks up in r V to (r + 1) V            one table of R V vectors
```
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.stacking.arrangement import as_maps, repeat_channels
from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked
from esper.kasmina.stacking.kinds import Kind, Site, Weights, is_missing, is_off

_FEW_NUMBERS = 49_152
"""Of the input of a 1 x 1 convolution: below, starting a convolution costs more than turning its input."""
_ONLY_MAPS = frozenset({StackArrangement.MAPS})
_ONLY_ROWS = frozenset({StackArrangement.ROWS})


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b for each row.

    Args:
        x: [R, ..., in].
        weight: [R, out, in].
        bias: [R, out] or None.
    """
    flat = x if x.dim() == 3 else x.flatten(1, -2)  # [R, N, in]
    turned = weight.mT
    out = torch.bmm(flat, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, turned)
    return out if x.dim() == 3 else out.view(*x.shape[:-1], -1)


def apply_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, num_rows: int) -> Tensor:
    """Return a 1 x 1 convolution of every row, as a product per row over all positions.

    Args:
        x: [B, R C, H, W] channels last.
        weight: [R, out, C].
        bias: [R, out] or None.
        num_rows: R.
    """
    num_items, _, height, width = x.shape
    positions = x.permute(0, 2, 3, 1).reshape(num_items * height * width, num_rows, -1)  # [N, R, C]
    out = apply_linear(positions.transpose(0, 1), weight, bias).transpose(0, 1)  # [N, R, out]
    return out.reshape(num_items, height, width, -1).permute(0, 3, 1, 2)


def _build_linear(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.Linear)
    weight = site.name("weight")
    bias = site.parameter(module, "bias")

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        del context
        return apply_linear(x, weights[weight], None if bias is None else weights[bias])

    return site.function(compute)


def _build_conv(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.Conv2d)
    weight = site.name("weight")
    bias = site.parameter(module, "bias")
    stride, padding, dilation = module.stride, module.padding, module.dilation
    row_groups = module.groups
    fan_in, fan_out = module.in_channels // module.groups, module.out_channels // module.groups

    is_pointwise = row_groups == 1 and module.kernel_size == (1, 1) and stride == (1, 1) and padding == (0, 0)

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        groups = context.num_rows * row_groups
        if is_pointwise and x.numel() <= _FEW_NUMBERS:
            return apply_pointwise(
                x, weights[weight].flatten(2), None if bias is None else weights[bias], context.num_rows
            )
        if fan_in == 1 < fan_out and not x.requires_grad:
            # The first layer on grey images. Where every output has an input of its own, the CPU fills its
            # vectors with channels; a group of one input and a few outputs leaves most lanes empty.
            x, groups = repeat_channels(x, fan_out), groups * fan_out
        out = F.conv2d(
            x,
            weights[weight].flatten(0, 1),
            None if bias is None else weights[bias].flatten(),
            stride,
            padding,
            dilation,
            groups,
        )
        return as_maps(out)

    return site.function(compute)


def _build_embedding(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.Embedding)
    weight = site.name("weight")

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        table = weights[weight]  # [R, V, C]
        first = torch.arange(context.num_rows, device=x.device) * table.shape[1]
        return F.embedding(x + first.view(-1, *[1] * (x.dim() - 1)), table.flatten(0, 1))

    return site.function(compute)


def _is_zeros(value: object) -> bool:
    return value == "zeros"


LINEAR_KINDS: Mapping[type[nn.Module], Kind] = MappingProxyType(
    {
        nn.Linear: Kind(build=_build_linear, takes=_ONLY_ROWS, known={}),
        nn.Conv2d: Kind(
            build=_build_conv,
            takes=_ONLY_MAPS,
            settings=("stride", "padding", "dilation", "groups"),
            known={"padding_mode": _is_zeros},
        ),
        nn.Embedding: Kind(
            build=_build_embedding,
            takes=_ONLY_ROWS,
            known={
                "padding_idx": is_missing,
                "max_norm": is_off,
                "scale_grad_by_freq": is_off,
                "sparse": is_off,
            },
        ),
    }
)
