"""Rows of an activation: some of them taken out, put together, blended by an alpha of their own.

A map is taken as a matrix [B H W, R C] whose columns are selected: on the CPU the fastest way there and back
of those that torch has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from esper.kasmina.stacking.arrangement import spread_over_rows
from esper.kasmina.stacking.contract import StackArrangement

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


def take_rows(x: Tensor, rows: Tensor, arrangement: StackArrangement, num_rows: int) -> Tensor:
    """Return a copy of some rows, in the same arrangement.

    Args:
        x: Activation of R = `num_rows` rows.
        rows: [g] int64, each in [0, R), in any order, repeats allowed.
        arrangement: Of x.
        num_rows: R.
    """
    if arrangement is StackArrangement.ROWS:
        return _select(x, rows, 0)
    num_items, num_wide, height, width = x.shape
    num_channels = num_wide // num_rows
    channels = (rows[:, None] * num_channels + torch.arange(num_channels, device=rows.device)).flatten()
    flat = x.permute(0, 2, 3, 1).reshape(-1, num_wide)  # [B H W, R C], a view in channels-last memory
    taken = _select(flat, channels, 1).view(num_items, height, width, channels.numel())
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


def _select(x: Tensor, places: Tensor, dim: int) -> Tensor:
    out: Tensor = _Select.apply(x, places, dim)  # type: ignore[no-untyped-call]
    return out


@final
class _Select(torch.autograd.Function):
    """Select along one axis; the gradient is put back where each entry came from."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, places: Tensor, dim: int) -> Tensor:
        """Return x's entries at `places` along `dim`."""
        ctx.save_for_backward(places)
        ctx.size, ctx.dim = x.shape[dim], dim  # type: ignore[attr-defined]
        return x.index_select(dim, places)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Hand each entry's gradient back to where it came from."""
        (places,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _put_back(grad, places, ctx.size, ctx.dim), None, None  # type: ignore[attr-defined]


def _put_back(grad: Tensor, places: Tensor, size: int, dim: int) -> Tensor:
    # A permutation's way back is a selection, at half the price of adding. Only the CPU may be asked whether
    # it is one: on another device the answer would be a sync.
    if places.numel() == size and places.device.type == "cpu":
        ordered, way_back = places.sort()
        if torch.equal(ordered, torch.arange(size)):
            return grad.index_select(dim, way_back)
    shape = list(grad.shape)
    shape[dim] = size
    return grad.new_zeros(shape).index_add_(dim, places, grad)
