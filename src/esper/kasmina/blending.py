"""Alpha as a closed form of the batch, and the three ways a seed's residual enters the host feature.

```
ADD    out = h + alpha * d(h)
GATE   out = h + alpha * g(h) * d(h)        g: per-sample gate in (0, 1)
VALVE  out = h + alpha * h * tanh(d(h))
```
All three are `h + alpha * residual(h)`: the identity path always carries dL/dh, so the host upstream keeps
learning at alpha = 1, and a residual that is 0 at birth changes nothing whatever alpha is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.recomputing import recompute_in_backward
from esper.leyline import AlphaCurve, BlendForm, JsonValue

_SIGMOID_STEEPNESS = 12.0
_GATE_MIN_WIDTH = 8


def compute_curve(curve: AlphaCurve, progress: float) -> float:
    """Return the ramp's height in [0, 1]; exactly 0 at progress 0 and exactly 1 at progress 1.

    LINEAR t; COSINE (1 - cos(pi t)) / 2; SIGMOID the logistic of steepness 12, rescaled to meet both ends.
    Monotone in `progress`, which is clamped to [0, 1].

    Example:
        >>> [round(compute_curve(AlphaCurve.COSINE, t), 3) for t in (0.0, 0.25, 1.0)]
        [0.0, 0.146, 1.0]
    """
    t = min(1.0, max(0.0, progress))
    if t in (0.0, 1.0) or curve is AlphaCurve.LINEAR:
        return t
    if curve is AlphaCurve.COSINE:
        return (1.0 - math.cos(math.pi * t)) / 2.0
    low = 1.0 / (1.0 + math.exp(_SIGMOID_STEEPNESS / 2.0))
    raw = 1.0 / (1.0 + math.exp(-_SIGMOID_STEEPNESS * (t - 0.5)))
    return min(1.0, max(0.0, (raw - low) / (1.0 - 2.0 * low)))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaRamp:
    """A move of alpha from `start_value` to `target` over `num_batches`, as a function of the batch clock.

    Never accumulated: the value at a batch depends on nothing but the record, so that a resumed run and a
    bf16 run follow the same ramp (in bf16 an alpha below 0.002 added to 1 has no effect).
    """

    start_value: float
    target: float
    start_batch: int
    """Batch clock at which the ramp stands at `start_value`."""
    num_batches: int
    """Length, >= 1."""
    curve: AlphaCurve

    def alpha_at(self, batch: int) -> float:
        """Return alpha in [0, 1] at the given batch clock."""
        progress = (batch - self.start_batch) / self.num_batches
        if progress >= 1.0:
            return self.target
        height = compute_curve(self.curve, progress)
        return self.start_value + (self.target - self.start_value) * height

    def is_finished_at(self, batch: int) -> bool:
        """Whether the target has been reached."""
        return batch - self.start_batch >= self.num_batches

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data."""
        return {
            "start_value": self.start_value,
            "target": self.target,
            "start_batch": self.start_batch,
            "num_batches": self.num_batches,
            "curve": self.curve.value,
        }

    @staticmethod
    def from_dict(data: dict[str, JsonValue]) -> AlphaRamp:
        """Rebuild from `to_dict`."""
        return AlphaRamp(
            start_value=float(str(data["start_value"])),
            target=float(str(data["target"])),
            start_batch=int(str(data["start_batch"])),
            num_batches=int(str(data["num_batches"])),
            curve=AlphaCurve(data["curve"]),
        )


@final
class SampleGate(nn.Module):
    """Per-sample gate g(h) in (0, 1): pool > Linear(C, max(8, C // 4)) > ReLU > Linear(1) > sigmoid."""

    def __init__(self, num_channels: int, channel_dim: int, num_inner: int) -> None:
        """Build the gate for features with `num_channels` at dimension `channel_dim` (1 or -1).

        `num_inner` counts the dimensions beside batch and channels. It is fixed here and not read from the
        input, because a traced input has no rank to branch on.
        """
        super().__init__()
        width = max(_GATE_MIN_WIDTH, num_channels // 4)
        self.reduce = nn.Linear(num_channels, width)
        self.expand = nn.Linear(width, 1)
        self.num_inner = num_inner
        first = 2 if channel_dim == 1 else 1
        self.pooled_dims = tuple(range(first, first + num_inner))

    def forward(self, h: Tensor) -> Tensor:
        """Map features [B, ...] to gates [B, 1, ...] that broadcast over them."""
        pooled = h.mean(dim=self.pooled_dims) if self.pooled_dims else h  # [B, C]
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(pooled))))  # [B, 1]
        for _ in range(self.num_inner):
            gate = gate.unsqueeze(-1)
        return gate


@final
class Seed(nn.Module):
    """A blueprint's branch d(h) together with the form in which it enters the host."""

    def __init__(self, branch: nn.Module, form: BlendForm, gate: SampleGate | None) -> None:
        """Join a branch and, for the form GATE, its gate."""
        super().__init__()
        self.branch = branch
        self.gate = gate
        self.form = form
        self.is_recomputed = False
        """Whether activations are computed again in the backward pass instead of kept for it."""

    def forward(self, h: Tensor) -> Tensor:
        """Return residual(h), same shape as h: exactly 0 while the branch is 0."""
        if self.is_recomputed and self.training and torch.is_grad_enabled():
            return recompute_in_backward(self, self._residual, h)
        return self._residual(h)

    def _residual(self, h: Tensor) -> Tensor:
        delta: Tensor = self.branch(h)
        if self.form is BlendForm.VALVE:
            return h * torch.tanh(delta)
        if self.gate is not None:
            gate: Tensor = self.gate(h)
            return gate * delta
        return delta


def build_seed(
    branch: nn.Module, form: BlendForm, num_channels: int, channel_dim: int, num_inner: int
) -> Seed:
    """Return the seed of a branch.

    A GATE seed draws its gate's weights from the global random stream: call this inside `build_seeded`.

    Example:
        >>> seed = build_seed(nn.Identity(), BlendForm.ADD, 4, channel_dim=1, num_inner=1)
        >>> type(seed).__name__
        'Seed'
    """
    gate = SampleGate(num_channels, channel_dim, num_inner) if form is BlendForm.GATE else None
    return Seed(branch, form, gate)


def apply_blend(h: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """Return h + alpha * residual, computed in float32 at least and cast back to h's dtype.

    Args:
        h: Host feature [B, ...].
        residual: Same shape as h.
        alpha: float32, 0-dim, or [B, 1, ...] for one alpha per sample.

    Example:
        >>> apply_blend(torch.ones(2), torch.full((2,), 4.0), torch.tensor(0.5))
        tensor([3., 3.])
    """
    if h.dtype == residual.dtype and h.dtype in (torch.float32, torch.float64):
        return torch.addcmul(h, residual, alpha)
    return torch.addcmul(h.float(), residual.float(), alpha).to(h.dtype)
