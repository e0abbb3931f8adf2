"""Uniform numbers by name: what row, step and head draw is a pure function of the row's key.

A generator that serves many rows gives each of them other numbers as soon as one more row stands before it;
then four environments in one process and two in each of two processes would live other lives. Here nothing is
consumed and there is no state to save: the numbers of a step can be had again at any time.

The mixing is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), whose
counter is chosen instead of advanced.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed number
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB
_DRAW_BITS = 32
"""Bits of one draw: few enough that a draw times a sum of probabilities never rounds up to that sum."""


def draw_noise(keys: Tensor, steps: Tensor, num_heads: int) -> Tensor:
    """Return [N, H] float64 in [0, 1), on the device of the keys.

    Args:
        keys: [N] int64, one per row: who draws.
        steps: [N] int64, >= 0: how many decisions that row has behind it.
        num_heads: H >= 1.

    Example:
        >>> draw_noise(torch.tensor([7, 7]), torch.tensor([0, 0]), 2).unique(dim=0).shape
        torch.Size([1, 2])
    """
    heads = torch.arange(num_heads, device=keys.device)
    counter = steps[:, None] * num_heads + heads + 1
    mixed = _mix(keys[:, None] + counter * _GOLDEN)
    return _shift(mixed, 64 - _DRAW_BITS).double() * 2.0**-_DRAW_BITS


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, as unsigned numbers do; torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
