"""Learning rate, entropy coefficients and the weight of floors as pure functions of the update.

Nothing is accumulated: a resumed run asks for update u and gets what the uninterrupted one got. The unit is
the update (round), never an optimiser step or an environment step. Knows numbers and settings, no optimiser.
"""

from __future__ import annotations

import math

from esper.simic.config import EntropyConfig, ScheduleConfig


def compute_learning_rate(update: int, num_updates: int, peak: float, config: ScheduleConfig) -> float:
    """Return the learning rate of one update.

    With W = floor(warmup_fraction * U) it rises as (u + 1) / (W + 1) for u < W; then, with
    p = (u - W) / (U - W), it is peak * (f + (1 - f) * (1 - p)) (linear), peak * (f + (1 - f) * (1 + cos(pi
    p)) / 2) (cosine), or peak. So update W is the first at the peak, and the final fraction f is what an
    update U would get.

    Args:
        update: u, updates applied before this one, >= 0; past the end the final fraction holds.
        num_updates: U, >= 1.
        peak: Highest rate, > 0.
        config: Kind, warm-up and final fraction.
    """
    warmup = int(config.warmup_fraction * num_updates)
    if update < warmup:
        return peak * (update + 1) / (warmup + 1)
    progress = min(1.0, (update - warmup) / (num_updates - warmup))
    final = config.final_fraction
    if config.kind == "linear":
        return peak * (final + (1.0 - final) * (1.0 - progress))
    if config.kind == "cosine":
        return peak * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    return peak


def compute_entropy_coefs(
    update: int, num_updates: int, heads: tuple[str, ...], config: EntropyConfig
) -> dict[str, float]:
    """Return head -> coefficient per nat: linear from the first update's to the last one's.

    Args:
        update: u in [0, U); past the end the last coefficient holds.
        num_updates: U, >= 1.
        heads: Names of the columns of an action.
        config: Coefficients at both ends.
    """
    progress = min(1.0, update / max(1, num_updates - 1))
    coefs = {}
    for head in heads:
        start = config.head_starts.given.get(head, config.start)
        end = config.head_ends.given.get(head, config.end)
        coefs[head] = start + (end - start) * progress
    return coefs


def compute_floor_coef(update: int, num_updates: int, config: EntropyConfig) -> float:
    """Return the weight of the entropy floors: linear from `floor_coef` to 0 at `floor_end_fraction` of U.

    Args:
        update: u, >= 0.
        num_updates: U, >= 1.
        config: Weight and where it ends.
    """
    return config.floor_coef * max(0.0, 1.0 - update / (config.floor_end_fraction * num_updates))
