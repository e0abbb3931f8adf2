"""What a seed could do in its first step: the features in front of its zero layer, and how they enter.

```
delta(h) = R(W phi(h), h)        W = 0 at birth, R the way from the zero layer's output y to delta
```
phi is what arrives at the last linear or convolutional layer that is 0 at birth, with a constant where the
layer has a bias, unfolded patches where its kernel is larger than one pixel. To first order delta = J y, and
J = dR/dy at 0 is the identity (mlp, low_rank, the convolutions) or, in a multiplicative branch, diagonal
(attention: h times the pooled y): then every channel of y has a regression of its own, weighted by J^T J.

Not answered (None): a branch without such a layer (noop; norm, whose zero is one scalar gate), one that calls
it twice or in groups, or one that mixes channels or samples behind it. Features are those of ADD blending.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import norms_with_statistics
from esper.tolaria.scoring_ridge import Regression

_ZeroLayer = nn.Linear | nn.Conv2d
_TOLERANCE = 1e-4
"""Of J^T J being diagonal, over its largest entry: float32 arithmetic stays below it."""


def extract_regression(branch: nn.Module, features: Tensor, gradient: Tensor) -> Regression | None:
    """Return the regression that tells what a fresh branch could explain, or None (see above).

    Args:
        branch: Fresh and to be thrown away; it is run in eval mode, its batch norms on the batch.
        features: h [B, ...] float32, B >= 2.
        gradient: dL/dh per sample, same shape.
    """
    branch.eval().requires_grad_(requires_grad=False)
    for norm in norms_with_statistics(branch):
        # In eval mode a norm that has seen nothing would not normalise.
        norm.train()
    found = _run_to_zero_layer(branch, features)
    if found is None:
        return None
    layer, inputs, outputs, is_last = found
    if inputs.shape[0] != features.shape[0] or not _can_unfold(layer):
        return None
    rows = _unfold(layer, inputs)
    if is_last:
        return Regression(rows=rows, targets=_flatten(layer, gradient))
    return _extract_behind(branch, layer, outputs, (features, gradient), rows)


def _run_to_zero_layer(branch: nn.Module, features: Tensor) -> tuple[_ZeroLayer, Tensor, Tensor, bool] | None:
    """Return the zero layer that is called last, its input and output, and whether delta is that output."""
    calls: list[tuple[_ZeroLayer, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, _ZeroLayer)
        calls.append((module, args[0], output))

    handles = [layer.register_forward_hook(note) for layer in branch.modules() if _is_zero(layer)]
    with torch.no_grad():
        delta: Tensor = branch(features)
    for handle in handles:
        handle.remove()
    if not calls:
        return None
    layer, inputs, outputs = calls[-1]
    if sum(called is layer for called, _, _ in calls) > 1:
        return None
    return layer, inputs, outputs, delta is outputs


def _is_zero(module: nn.Module) -> bool:
    return isinstance(module, _ZeroLayer) and not any(bool(p.any()) for p in module.parameters())


def _can_unfold(layer: _ZeroLayer) -> bool:
    return isinstance(layer, nn.Linear) or (layer.groups == 1 and layer.padding_mode == "zeros")


def _unfold(layer: _ZeroLayer, inputs: Tensor) -> Tensor:
    """Return what each output position sees, [B, Q, p]; the constant of a bias stands last."""
    if isinstance(layer, nn.Linear):
        rows = _flatten(layer, inputs)
    else:
        kernel = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        # A convolution whose weights are the identity copies patches, whatever stride and padding are.
        copy = torch.eye(kernel, device=inputs.device, dtype=inputs.dtype)
        weight = copy.reshape(kernel, layer.in_channels, *layer.kernel_size)
        patches = F.conv2d(
            inputs, weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
        )
        rows = _flatten(layer, patches)
    if layer.bias is None:
        return rows
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)


def _flatten(layer: _ZeroLayer, tensor: Tensor) -> Tensor:
    """Return [B, Q, C] of what goes in or out of a layer: channels last, positions in one dimension."""
    if isinstance(layer, nn.Linear):
        return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])
    return tensor.flatten(2).transpose(1, 2)


def _extract_behind(
    branch: nn.Module, layer: _ZeroLayer, outputs: Tensor, given: tuple[Tensor, Tensor], rows: Tensor
) -> Regression | None:
    """Return the weighted regression of a layer whose output goes on to be changed, or None."""
    features, gradient = given
    y = torch.zeros_like(outputs, requires_grad=True)
    handle = layer.register_forward_hook(lambda module, args, output: y.clone())
    with torch.enable_grad():
        delta: Tensor = branch(features)
    handle.remove()
    if not delta.requires_grad:
        return None
    probe = torch.zeros_like(delta, requires_grad=True)
    # Linear in the probe: its own gradient is the forward product J v.
    (pulled,) = torch.autograd.grad(delta, y, probe, create_graph=True)

    def push_and_pull(vector: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(pulled, probe, vector, retain_graph=True)
        (back,) = torch.autograd.grad(delta, y, pushed, retain_graph=True)
        return back

    weights = push_and_pull(torch.ones_like(y))
    generator = torch.Generator().manual_seed(1)
    signs = (2.0 * torch.randint(2, y.shape, generator=generator) - 1.0).to(y)
    largest = float(weights.abs().max())
    error = float((push_and_pull(signs) - weights * signs).abs().max())
    if not (largest > 0.0 and error <= _TOLERANCE * largest):
        return None
    (targets,) = torch.autograd.grad(delta, y, gradient)
    return Regression(
        rows=rows, targets=_flatten(layer, targets.detach()), weights=_flatten(layer, weights.detach())
    )
