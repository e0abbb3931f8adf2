"""What is detached when, and the autograd functions by which a seed learns in the host's backward pass.

```
stage                      host forward               gradient into the host      gradient into the seed
DORMANT, GERMINATED        h                          dL/dh                       none
TRAINING, bounded          h (seed not in the graph)  dL/dh, bit-equal            own loss on h.detach()
TRAINING, joined loss      h (seed not in the graph)  dL/dh, bit-equal            own loss, while L's runs
TRAINING, straight-through h (value and gradient)     dL/dh, bit-equal            dL/dout
TRAINING, residual lesson  h (value and gradient)     dL/dh, bit-equal            d/dr of w mean((r - t)^2)
BLENDING and later         h + alpha * residual(h)    (I + alpha J_r)^T dL/dout   alpha dL/dout
```
A seed at alpha = 0 is skipped in Python, never multiplied by 0: 0 * inf is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from esper.kasmina.incubation import compute_residual_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.autograd.function import FunctionCtx


@final
class StraightThrough(torch.autograd.Function):
    """Forward: h, bit for bit. Backward: the gradient goes unchanged to h and to the residual.

    The usual trick `h + (s - s.detach())` is exact for finite s only; an infinite s makes it NaN.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, residual: Tensor) -> Tensor:
        """Return h; `residual` only takes part in the backward pass."""
        del ctx, residual
        return h.view_as(h)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Hand the gradient to both inputs."""
        del ctx
        return grad, grad


def pass_straight_through(h: Tensor, residual: Tensor) -> Tensor:
    """Return h in value and in its own gradient, while `residual` receives dL/dout."""
    out: Tensor = StraightThrough.apply(h, residual)  # type: ignore[no-untyped-call]
    return out


@final
class ResidualLesson(torch.autograd.Function):
    """Forward: h, bit for bit. Backward: h gets its gradient unchanged, the residual that of a regression.

    The loss is w mean((r - t)^2) with t = -c std(h) g / rms(g), as in `kasmina.incubation`; it is never
    computed, because only its gradient 2 w (r - t) / n is wanted, once g is known. For loops that we do not
    run ourselves: nothing has to be called between backward pass and optimiser step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, residual: Tensor, weight: Tensor, scale: float) -> Tensor:
        """Return a copy of h: what follows may work in place, and a view of an input would forbid it."""
        ctx.save_for_backward(h, residual, weight)
        ctx.scale = scale  # type: ignore[attr-defined]
        return h.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Hand the gradient to h, and the regression's to the residual."""
        h, residual, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        target = compute_residual_target(h, grad, ctx.scale)  # type: ignore[attr-defined]
        lesson = (residual.float() - target) * (2.0 * weight / residual.numel())
        return grad, lesson.to(residual.dtype), None, None


@final
class JoinedLoss(torch.autograd.Function):
    """Forward: a loss, bit for bit. Backward: what was found for each parameter, times the loss's gradient.

    So that a seed's own loss learns in the backward pass of a loop that we do not run, scaled, accumulated
    and zeroed as everything else there is.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, loss: Tensor, gradients: tuple[Tensor | None, ...], *parameters: Tensor
    ) -> Tensor:
        """Return a copy of the loss; `parameters` only take part in the backward pass."""
        del parameters
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return loss.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradient to the loss, and to each parameter its own."""
        gradients: tuple[Tensor | None, ...] = ctx.gradients  # type: ignore[attr-defined]
        return grad, None, *(None if one is None else one * grad for one in gradients)


def join_loss(loss: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """Return a loss in value and in its own gradient, in whose backward pass parameters learn, too.

    Args:
        loss: Scalar with gradient.
        gradients: What each parameter gets where the loss itself gets 1; None = nothing.
        parameters: As many, in the same order.

    Example:
        >>> weight = torch.tensor(1.0, requires_grad=True)
        >>> loss = torch.tensor(3.0, requires_grad=True)
        >>> join_loss(loss, [torch.tensor(0.5)], [weight]).backward()
        >>> weight.grad, loss.grad
        (tensor(0.5000), tensor(1.))
    """
    out: Tensor = JoinedLoss.apply(loss, tuple(gradients), *parameters)  # type: ignore[no-untyped-call]
    return out


def teach_residual(h: Tensor, residual: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Return h in value and in its own gradient, while `residual` learns from the regression.

    Args:
        h: Host feature [B, ...].
        residual: Of the detached feature, same shape.
        weight: 0-dim float32: w, times the loss scale, over the micro-batches of one step.
        scale: c, the target's size over the feature's spread.
    """
    out: Tensor = ResidualLesson.apply(h, residual, weight, scale)  # type: ignore[no-untyped-call]
    return out
