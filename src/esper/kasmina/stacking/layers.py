"""Layers without weights: activations, pooling, flattening, and what passes its input on.

Each works on a wide network's map, or on any [R, B, ...], as torch's own function does; only flattening
has to know where the rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.stacking.arrangement import as_maps, map_to_rows, pool_map
from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked
from esper.kasmina.stacking.kinds import Kind, Site, Weights, is_off

_ONLY_MAPS = frozenset({StackArrangement.MAPS})


def _elementwise(apply: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Site], Stacked]:
    def build(module: nn.Module, site: Site) -> Stacked:
        del module

        def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
            del weights, context
            return apply(x)

        return site.function(compute)

    return build


def _pass_on(x: Tensor) -> Tensor:
    return x


def _build_gelu(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.GELU)
    approximate = module.approximate
    return _elementwise(lambda x: F.gelu(x, approximate=approximate))(module, site)


def _build_flatten(module: nn.Module, site: Site) -> Stacked:
    if site.arrangement is StackArrangement.ROWS:
        return _elementwise(lambda x: x.flatten(2))(module, site)

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        del weights
        return map_to_rows(x, context.num_rows)

    return site.function(compute, out=StackArrangement.ROWS)


def _build_max_pool(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.MaxPool2d)
    size, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
    return _elementwise(lambda x: as_maps(F.max_pool2d(x, size, stride, padding, dilation)))(module, site)


def _build_avg_pool(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.AvgPool2d)
    size, stride, padding = module.kernel_size, module.stride, module.padding
    counts_padding, divisor = module.count_include_pad, module.divisor_override

    def pool(x: Tensor) -> Tensor:
        return as_maps(F.avg_pool2d(x, size, stride, padding, False, counts_padding, divisor))

    return _elementwise(pool)(module, site)


def _is_one(value: object) -> bool:
    return value in (1, (1, 1))


def _is_first(value: object) -> bool:
    return value == 1


def _is_last(value: object) -> bool:
    return value == -1


LAYER_KINDS: Mapping[type[nn.Module], Kind] = MappingProxyType(
    {
        nn.ReLU: Kind(build=_elementwise(torch.relu), known={"inplace": is_off}),
        nn.SiLU: Kind(build=_elementwise(F.silu), known={"inplace": is_off}),
        nn.GELU: Kind(build=_build_gelu, settings=("approximate",), known={}),
        nn.Tanh: Kind(build=_elementwise(torch.tanh), known={}),
        nn.Sigmoid: Kind(build=_elementwise(torch.sigmoid), known={}),
        nn.Identity: Kind(build=_elementwise(_pass_on), known={}),
        nn.Dropout: Kind(build=_elementwise(_pass_on), known={"p": is_off}),
        nn.Flatten: Kind(build=_build_flatten, known={"start_dim": _is_first, "end_dim": _is_last}),
        nn.MaxPool2d: Kind(
            build=_build_max_pool,
            takes=_ONLY_MAPS,
            settings=("kernel_size", "stride", "padding", "dilation"),
            known={"return_indices": is_off, "ceil_mode": is_off},
        ),
        nn.AvgPool2d: Kind(
            build=_build_avg_pool,
            takes=_ONLY_MAPS,
            settings=("kernel_size", "stride", "padding", "count_include_pad", "divisor_override"),
            known={"ceil_mode": is_off},
        ),
        nn.AdaptiveAvgPool2d: Kind(
            build=_elementwise(lambda x: pool_map(x)[:, :, None, None]),
            takes=_ONLY_MAPS,
            known={"output_size": _is_one},
        ),
    }
)
