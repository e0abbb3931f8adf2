"""Rows of an activation: some of them taken out, put together, blended by an alpha of their own.

A map is taken as a matrix [B H W, R C] whose columns are selected: on the CPU that is faster, there and back,
than selecting along the middle axis of [B, H, W, R, C].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.kasmina.stacking.arrangement import spread_over_rows
from esper.kasmina.stacking.contract import StackArrangement


def take_rows(x: Tensor, rows: Tensor, arrangement: StackArrangement, num_rows: int) -> Tensor:
    """Return a copy of some rows, in the same arrangement.

    Args:
        x: Activation of R = `num_rows` rows.
        rows: [g] int64, each in [0, R), in any order, repeats allowed.
        arrangement: Of x.
        num_rows: R.
    """
    if arrangement is StackArrangement.ROWS:
        return x.index_select(0, rows)
    num_items, num_wide, height, width = x.shape
    num_channels = num_wide // num_rows
    channels = (rows[:, None] * num_channels + torch.arange(num_channels, device=rows.device)).flatten()
    flat = x.permute(0, 2, 3, 1).reshape(-1, num_wide)  # [B H W, R C], a view in channels-last memory
    taken = flat.index_select(1, channels).view(num_items, height, width, channels.numel())
    return taken.permute(0, 3, 1, 2)


def join_stacked(
    parts: Sequence[Tensor], order: Tensor | None, arrangement: StackArrangement, nums: Sequence[int]
) -> Tensor:
    """Return the rows of several activations in one.

    Args:
        parts: Activations that differ in their number of rows alone.
        order: [g] int64: row i of the result is row order[i] of all parts in turn; None = all as they are.
        arrangement: Of the parts.
        nums: Rows of each part.
    """
    joined = torch.cat(tuple(parts), dim=0 if arrangement is StackArrangement.ROWS else 1)
    return joined if order is None else take_rows(joined, order, arrangement, sum(nums))


def blend_rows(
    h: Tensor, residual: Tensor, alpha: Tensor, arrangement: StackArrangement, num_rows: int
) -> Tensor:
    """Return h + alpha * residual with one alpha per row.

    Computed in float32 where both are of half precision, and cast back to h's dtype.

    Args:
        h: Activation of g = `num_rows` rows.
        residual: Same shape.
        alpha: [g].
        arrangement: Of both.
        num_rows: g.
    """
    assert alpha.shape == (num_rows,)
    wide = torch.promote_types(torch.promote_types(h.dtype, residual.dtype), torch.float32)
    factor = spread_over_rows(alpha.to(wide), h, arrangement)
    return torch.addcmul(h.to(wide), residual.to(wide), factor).to(h.dtype)
