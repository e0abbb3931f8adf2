"""Learning rates as pure functions of the batch: nothing is accumulated, growth and resume cannot shift them.

Knows numbers only: neither an optimiser nor a seed.
"""

from __future__ import annotations

import math

_MAX_NEWBORN_WARMUP_BATCHES = 200


def compute_decay(batch: int, total_batches: int, *, warmup_fraction: float, final_fraction: float) -> float:
    """Return the host's learning rate at a batch as a fraction of its peak, in (0, 1].

    Linear from 1 / (warm-up batches + 1) to 1 over the first `warmup_fraction`, then cosine to
    `final_fraction` at the last batch (Loshchilov and Hutter 2017, without restarts).

    Args:
        batch: Batches finished before this one, >= 0; past the end the final fraction holds.
        total_batches: Batches until the horizon, >= 1.
        warmup_fraction: In [0, 1).
        final_fraction: In (0, 1].
    """
    warmup = int(warmup_fraction * total_batches)
    if batch < warmup:
        return (batch + 1) / (warmup + 1)
    span = max(1, total_batches - 1 - warmup)
    progress = min(1.0, (batch - warmup) / span)
    return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def compute_newborn_factor(age_batches: int, warmup_batches: int) -> float:
    """Return the share of its learning rate that a seed of this age gets: linear from 1/(w+1) to 1.

    A newborn's first gradients are taken at a random interior behind a zero map; full steps there undo the
    gentle start (and Adam's first steps are full-sized whatever the gradient).

    Args:
        age_batches: Batches since the seed began to train; below 0 counts as 0.
        warmup_batches: w; 0 or less = no warm-up.
    """
    if warmup_batches <= 0:
        return 1.0
    return min(1.0, (max(0, age_batches) + 1) / (warmup_batches + 1))


def compute_newborn_warmup(batches_per_epoch: int) -> int:
    """Return over how many batches a newborn's rate rises: one epoch, at most 200 batches."""
    return min(_MAX_NEWBORN_WARMUP_BATCHES, batches_per_epoch)
