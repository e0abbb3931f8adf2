"""Norms of R rows.

```
BatchNorm2d, 1d   statistics of each of the R C channels    a wide network's batch norm
GroupNorm         R g groups over [B, R C, H, W]            a wide network's group norm
LayerNorm         over the last axis, then scale and shift of each row
```
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.stacking.arrangement import as_maps, channels_to_rows
from esper.kasmina.stacking.contract import StackArrangement, StackContext, Stacked
from esper.kasmina.stacking.kinds import Compute, Kind, Site, Weights, is_set

_ONLY_MAPS = frozenset({StackArrangement.MAPS})
_ONLY_ROWS = frozenset({StackArrangement.ROWS})


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, site: Site) -> Compute:
    """Return the batch norm of [B, R C, ...]; the caller brings its input there and back."""
    weight, bias = site.parameter(module, "weight"), site.parameter(module, "bias")
    path, is_tracking, eps = site.path, module.track_running_stats, module.eps
    own_momentum = module.momentum
    assert own_momentum is not None

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        is_batch = context.is_training or not is_tracking
        found = context.running.get(path) if is_tracking else None
        if found is None and not is_batch:
            raise KeyError(f"no running statistics of {path!r}: a pass that is not training needs them")
        mean, variance = (None, None) if found is None else (found[0].view(-1), found[1].view(-1))
        momentum = own_momentum if context.momentum is None else context.momentum
        return F.batch_norm(
            x,
            mean,
            variance,
            None if weight is None else weights[weight].flatten(),
            None if bias is None else weights[bias].flatten(),
            is_batch,
            momentum,
            eps,
        )

    return compute


def _build_batch_norm_2d(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.BatchNorm2d)
    normalise = _batch_norm(module, site)

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        return as_maps(normalise(x, weights, context))

    return site.function(compute)


def _build_batch_norm_1d(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.BatchNorm1d)
    normalise = _batch_norm(module, site)

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"{site.path!r}: a batch norm of rows takes [R, B, C], got {tuple(x.shape)}")
        wide = normalise(x.transpose(0, 1).flatten(1), weights, context)  # [B, R C]
        return channels_to_rows(wide, context.num_rows)

    return site.function(compute)


def _build_group_norm(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.GroupNorm)
    weight, bias = site.parameter(module, "weight"), site.parameter(module, "bias")
    num_groups, eps = module.num_groups, module.eps

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        if not x.requires_grad:
            # On the CPU, torch 2.13 crashes the process in the backward pass of a group norm over
            # channels-last data that needs no gradient, which is what an isolated seed gets.
            x = x.contiguous()
        out = F.group_norm(
            x,
            num_groups * context.num_rows,
            None if weight is None else weights[weight].flatten(),
            None if bias is None else weights[bias].flatten(),
            eps,
        )
        return as_maps(out)

    return site.function(compute)


def _build_layer_norm(module: nn.Module, site: Site) -> Stacked:
    assert isinstance(module, nn.LayerNorm)
    weight, bias = site.parameter(module, "weight"), site.parameter(module, "bias")
    shape, eps = module.normalized_shape, module.eps

    def compute(x: Tensor, weights: Weights, context: StackContext) -> Tensor:
        out = F.layer_norm(x, shape, None, None, eps)
        view = (context.num_rows, *[1] * (x.dim() - 2), shape[0])
        if weight is None:
            return out
        if bias is None:
            return out * weights[weight].view(view)
        return torch.addcmul(weights[bias].view(view), out, weights[weight].view(view))

    return site.function(compute)


_BATCH_SETTINGS = ("num_features", "eps", "momentum", "affine", "track_running_stats")

NORM_KINDS: Mapping[type[nn.Module], Kind] = MappingProxyType(
    {
        nn.BatchNorm1d: Kind(
            build=_build_batch_norm_1d,
            takes=_ONLY_ROWS,
            settings=_BATCH_SETTINGS,
            known={"momentum": is_set},
        ),
        nn.BatchNorm2d: Kind(
            build=_build_batch_norm_2d,
            takes=_ONLY_MAPS,
            settings=_BATCH_SETTINGS,
            known={"momentum": is_set},
        ),
        nn.GroupNorm: Kind(
            build=_build_group_norm,
            takes=_ONLY_MAPS,
            settings=("num_groups", "num_channels", "eps", "affine"),
            known={},
        ),
        nn.LayerNorm: Kind(
            build=_build_layer_norm,
            takes=_ONLY_ROWS,
            settings=("normalized_shape", "eps", "elementwise_affine"),
            known={"normalized_shape": lambda value: isinstance(value, tuple) and len(value) == 1},
        ),
    }
)
