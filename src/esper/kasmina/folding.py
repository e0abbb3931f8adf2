"""A linear seed goes into the weights of the layer in front of it.

```
h = W x + b;  h + a (M h + c)  =  (I + a M) W x  +  (I + a M) b + a c
```
The seed acts on what the layer returns, so the same holds for a convolution of any kernel, over its output
channels. Only what leaves the layer's own shape as it was is folded: the host's class can load the result.
Knows one target; whoever calls compares outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from esper.kasmina.affine import AffineMap, NotLinearError, find_affine
from esper.kasmina.attachments import has_hooks
from esper.kasmina.slot import SeedSlot

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)
_Layer = nn.Linear | _Convolution


def fold_seed(
    host: nn.Module, target: nn.Module, slot: SeedSlot, seed: fx.Graph, num_calls: Mapping[nn.Module, int]
) -> None:
    """Change a layer's weights so that it returns what the slot would make of its output.

    Args:
        host: Holds the target; asked who else uses the weights.
        target: What the slot stands behind: the layer, or what ends in it.
        slot: Its fossil.
        seed: As `graft_graph.trace_seed` gives it.
        num_calls: Module -> calls in one pass of the host.

    Raises:
        NotLinearError: If that is not exact; says why. Nothing was changed.
    """
    residual = find_affine(slot, seed)
    if residual.is_zero:
        return
    if slot.tap.select is not None:
        raise NotLinearError("the target returns more than one tensor")
    layer = _find_last_layer(target)
    _check_layer(layer, slot, residual)
    _check_alone(host, layer, num_calls)
    _change_weights(layer, residual, slot.state.alpha)


def _find_last_layer(target: nn.Module) -> _Layer:
    """Return the layer whose output is the target's."""
    if has_hooks(target):
        raise NotLinearError(f"a hook of yours stands on {type(target).__name__}")
    if type(target) is nn.Sequential:
        steps = [child for child in target if type(child) is not nn.Identity]
        if steps:
            return _find_last_layer(steps[-1])
    if type(target) is nn.Linear or type(target) in (*_CONVOLUTIONS, *_TRANSPOSED):
        assert isinstance(target, _Layer)
        return target
    raise NotLinearError(
        f"the target ends in {type(target).__name__}, a seed is folded into a linear layer or a convolution"
    )


def _check_layer(layer: _Layer, slot: SeedSlot, residual: AffineMap) -> None:
    arrangement = slot.tap.arrangement
    axis = arrangement.rank - 1 if isinstance(layer, nn.Linear) else 1
    if axis != arrangement.channel_dim:
        raise NotLinearError(
            f"layout {arrangement.value} has its channels at another axis than {type(layer).__name__}"
        )
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise NotLinearError(f"{type(layer).__name__} has {layer.groups} groups, the seed mixes channels")
    if layer.bias is None and residual.offset.count_nonzero():
        raise NotLinearError(f"{type(layer).__name__} has no bias that could take the seed's")


def _check_alone(host: nn.Module, layer: _Layer, num_calls: Mapping[nn.Module, int]) -> None:
    if num_calls.get(layer, 0) != 1:
        raise NotLinearError(f"{type(layer).__name__} is called {num_calls.get(layer, 0)} times in one pass")
    owners = Counter(id(p) for module in host.modules() for p in module.parameters(recurse=False))
    if any(owners[id(parameter)] > 1 for parameter in layer.parameters()):
        raise NotLinearError(f"the weights of {type(layer).__name__} belong to another layer, too")


def _change_weights(layer: _Layer, residual: AffineMap, alpha: float) -> None:
    """Write (I + a M) W and (I + a M) b + a c, computed in float64."""
    mix = torch.eye(len(residual.matrix), dtype=torch.float64, device=residual.matrix.device)
    mix = mix + alpha * residual.matrix
    with torch.no_grad():
        weight: Tensor = layer.weight.double()
        if isinstance(layer, _TRANSPOSED):  # [C_in, C_out, ...]
            layer.weight.copy_(torch.einsum("oc,ic...->io...", mix, weight))
        else:  # [C_out, C_in, ...]
            layer.weight.copy_(torch.einsum("oc,c...->o...", mix, weight))
        if layer.bias is not None:
            layer.bias.copy_(mix @ layer.bias.double() + alpha * residual.offset)
