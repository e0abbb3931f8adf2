"""Shapley values: one number per player that shares what a coalition of all of them is worth (Shapley, 1953).

```
value_i = sum over coalitions S without i of  |S|! (k - |S| - 1)! / k!  (v(S + i) - v(S))
        = mean over orders of  v(those before i, and i) - v(those before i)
```
The values add up to v(all) - v(none). Players are numbers, coalitions bit masks; knows no network.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import factorial

import torch
from torch import Tensor


def compute_shapley_values(worth_CN: Tensor) -> Tensor:
    """Return the exact Shapley values of every item's game.

    Args:
        worth_CN: [2^k, N] float64, k >= 0: row m is v of the players whose bits are set in m, per item.

    Returns:
        [k, N] float64.

    Raises:
        ValueError: If the number of rows is no power of two.
    """
    num_coalitions = len(worth_CN)
    num_players = num_coalitions.bit_length() - 1
    if num_coalitions != 1 << num_players:
        raise ValueError(f"{num_coalitions} coalitions: expected 2^k of k players, one per bit mask")
    weights = torch.zeros(num_players, num_coalitions, dtype=torch.float64)
    for player in range(num_players):
        for mask in range(num_coalitions):
            # Joining what is before it counts for a player, and the same coalition without it against it.
            is_in = bool(mask >> player & 1)
            num_before = mask.bit_count() - is_in
            weight = factorial(num_before) * factorial(num_players - num_before - 1) / factorial(num_players)
            weights[player, mask] = weight if is_in else -weight
    return weights.to(worth_CN.device) @ worth_CN


def sample_orders(num_players: int, num_orders: int, seed: int) -> list[tuple[int, ...]]:
    """Return random orders of players, drawn independently and evenly; the same for the same seed.

    Args:
        num_players: k, >= 0.
        num_orders: How many, >= 1.
        seed: Of the draw.
    """
    stream = random.Random(seed)
    return [tuple(stream.sample(range(num_players), num_players)) for _ in range(num_orders)]


def list_prefixes(order: Sequence[int]) -> list[int]:
    """Return the coalitions that an order forms as its players join, from nobody to all, as bit masks."""
    masks = [0]
    for player in order:
        masks.append(masks[-1] | 1 << player)
    return masks
