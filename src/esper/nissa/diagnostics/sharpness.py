"""How sharp the loss is around the weights: random steps away and, to the bit, back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 0.01
"""Deviation of the noise that is added to every weight."""


class SharpnessFacts(NamedTuple):
    """What a measurement came to."""

    sharpness: float
    """mean |L(w + sigma N) - L(w)| / sigma."""
    loss: float
    """L(w)."""


def measure_sharpness(
    parameters: Sequence[Tensor],
    compute_loss: Callable[[], Tensor],
    *,
    num_draws: int,
    generator: torch.Generator,
    sigma: float = SIGMA,
) -> SharpnessFacts:
    """Return the mean change of the loss per unit of noise; the weights are afterwards what they were.

    Args:
        parameters: What is moved; of one device, the generator's.
        compute_loss: Returns a 0-dim loss that depends on them, and changes nothing.
        num_draws: Random directions, >= 1.
        generator: The only stream that is drawn from.
        sigma: Deviation of the noise, > 0.
    """
    weights = [parameter.detach() for parameter in parameters]
    saved = [weight.clone() for weight in weights]
    try:
        with torch.no_grad():
            losses = [compute_loss().detach().float()]
            for _ in range(num_draws):
                for weight, birth in zip(weights, saved, strict=True):
                    noise = torch.randn(
                        weight.shape, generator=generator, device=weight.device, dtype=torch.float32
                    )
                    torch.add(birth, noise.to(weight.dtype), alpha=sigma, out=weight)
                losses.append(compute_loss().detach().float())
    finally:
        for weight, birth in zip(weights, saved, strict=True):
            weight.copy_(birth)
    base, *moved = torch.stack(losses).tolist()  # sync: one for all draws
    return SharpnessFacts(
        sharpness=sum(abs(loss - base) for loss in moved) / (num_draws * sigma), loss=float(base)
    )
