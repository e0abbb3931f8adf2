"""What is detached when, and the one autograd function that straight-through incubation needs.

```
stage                      host forward               gradient into the host      gradient into the seed
DORMANT, GERMINATED        h                          dL/dh                       none
TRAINING, bounded          h (seed not in the graph)  dL/dh, bit-equal            own loss on h.detach()
TRAINING, straight-through h (value and gradient)     dL/dh, bit-equal            dL/dout
BLENDING and later         h + alpha * residual(h)    (I + alpha J_r)^T dL/dout   alpha dL/dout
```
A seed at alpha = 0 is skipped in Python, never multiplied by 0: 0 * inf is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
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
