"""What a seed learns in TRAINING, while nothing depends on it. h is detached, the host is not touched.

```
shadow            L(tail(h + r(h)))                  the true loss with the seed at full alpha; bounded below
residual          w mean((r(h) - t)^2)               t = -c std(h) g / rms(g), g = dL/dh; bounded below
straight_through  E<g, r(h)>                         linear in r: no floor, longer is worse; by name only
```
The bounded two cost about 2 tail forwards + 3 seed forwards, and 3 seed forwards, per batch. Running the
tail must leave the host bit-equal: normalisation buffers are not updated, the random stream is put back,
and gradients are taken for the seed's parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

_EPSILON = 1e-12

NormWithStatistics = (
    nn.BatchNorm1d
    | nn.BatchNorm2d
    | nn.BatchNorm3d
    | nn.SyncBatchNorm
    | nn.InstanceNorm1d
    | nn.InstanceNorm2d
    | nn.InstanceNorm3d
)
"""Norms of torch that can keep running statistics."""


@final
class Incubation:
    """An incubation objective by name, as pure functions over one seed and one batch."""

    def __init__(self, name: str, *, residual_scale: float = 0.5, residual_weight: float = 10.0) -> None:
        """Choose the objective; the name has been checked by `LifecycleConfig`."""
        self.name = name
        self.residual_scale = residual_scale
        self.residual_weight = residual_weight

    @property
    def is_in_graph(self) -> bool:
        """Whether the seed takes part in the host's backward pass (straight-through only)."""
        return self.name == "straight_through"

    @property
    def needs_tail(self) -> bool:
        """Whether the host's tail is run again (shadow only)."""
        return self.name == "shadow"

    @property
    def needs_host_gradient(self) -> bool:
        """Whether dL/dh at the slot must be recorded (residual only)."""
        return self.name == "residual"

    def compute_loss(
        self,
        seed: Callable[[Tensor], Tensor],
        features: Tensor,
        host_gradient: Tensor | None,
        tail_loss: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the seed's own scalar loss on one batch.

        Args:
            seed: Maps features to their residual, as `SeedSlot.compute_residual` does.
            features: Detached host features [B, ...].
            host_gradient: dL/dh for the same batch, same shape; only for "residual".
            tail_loss: Runs the rest of the network from changed features to the loss; only for "shadow".

        Raises:
            RuntimeError: If the objective is straight-through (it has no loss of its own) or "residual" was
                given no gradient.
        """
        if self.name == "shadow":
            return tail_loss(features + seed(features))
        if self.name == "residual" and host_gradient is not None:
            target = compute_residual_target(features, host_gradient, self.residual_scale)
            return self.residual_weight * (seed(features).float() - target).square().mean()
        raise RuntimeError(
            f"incubation {self.name!r} has no loss here (gradient: {host_gradient is not None})"
        )


def compute_residual_target(features: Tensor, host_gradient: Tensor, scale: float) -> Tensor:
    """Return t = -scale * std(h) * g / rms(g) in float32, same shape as h; 0 where the gradient vanishes.

    Functional-gradient regression: a step against dL/dh whose size is tied to the features' own spread
    (Friedman 2001, gradient boosting, applied to a hidden layer).

    Example:
        >>> h = torch.tensor([0.0, 2.0])
        >>> compute_residual_target(h, torch.zeros(2), 1.0).abs()
        tensor([0., 0.])
    """
    gradient = host_gradient.float()
    rms = gradient.square().mean().sqrt()
    spread = features.float().std()
    return -scale * spread * gradient / (rms + _EPSILON)


def apply_seed_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Add d(loss)/d(parameters) to their `.grad`; nothing else in the graph receives a gradient.

    Example:
        >>> weight = nn.Parameter(torch.tensor(2.0))
        >>> apply_seed_gradient(weight**2, [weight])
        >>> weight.grad
        tensor(4.)
    """
    if not parameters:  # a seed that adds nothing learns nothing, and autograd refuses an empty list
        return
    # A parameter that the loss does not reach gets None here, which the annotation of torch does not say.
    gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def norms_with_statistics(root: nn.Module) -> tuple[NormWithStatistics, ...]:
    """Return the modules that keep running statistics (batch norms and tracking instance norms).

    Example:
        >>> len(norms_with_statistics(nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2))))
        1
    """
    return tuple(
        module
        for module in root.modules()
        if isinstance(module, NormWithStatistics) and module.running_mean is not None
    )


@contextmanager
def untouched_statistics(norms: Sequence[NormWithStatistics]) -> Iterator[None]:
    """Normalise as in the module's present mode without updating running statistics.

    In training mode a norm that does not track uses the batch's own statistics and writes nothing.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with untouched_statistics([norm]): _ = norm(torch.randn(4, 2))
        ...
        >>> norm.num_batches_tracked
        tensor(0)
    """
    training = [norm for norm in norms if norm.training]
    buffers = [(norm.running_mean, norm.running_var) for norm in training]
    for norm in training:
        norm.track_running_stats = False
        # An instance norm writes into buffers that it has, whether it tracks or not.
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, (mean, variance) in zip(training, buffers, strict=True):
            norm.track_running_stats = True
            norm.running_mean, norm.running_var = mean, variance


@contextmanager
def untouched_rng(device: torch.device) -> Iterator[None]:
    """Put the device's random stream back afterwards, so that dropout in a second pass shifts nothing.

    Example:
        >>> state = torch.get_rng_state()
        >>> with untouched_rng(torch.device("cpu")): _ = torch.rand(3)
        ...
        >>> torch.get_rng_state().equal(state)
        True
    """
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
