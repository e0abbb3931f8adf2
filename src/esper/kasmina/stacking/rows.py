"""Rows of an activation: some of them taken out, put together, blended by an alpha of their own.

A map keeps its rows in the middle of memory, [B, H, W, R, C], where torch's own backward pass of selecting
is slow: the gradient is put back here by a copy, and added up only where a row was taken twice.
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
        return _take(x, rows, 0)
    num_items, num_channels, height, width = x.shape
    wide = x.permute(0, 2, 3, 1).view(num_items, height, width, num_rows, num_channels // num_rows)
    return _take(wide, rows, 3).flatten(3).permute(0, 3, 1, 2)


def join_rows(
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


def _take(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    out: Tensor = _TakeRows.apply(x, rows, dim)  # type: ignore[no-untyped-call]
    return out


@final
class _TakeRows(torch.autograd.Function):
    """Select along one axis; the gradient is copied into zeros, or added where an index repeats."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, rows: Tensor, dim: int) -> Tensor:
        """Return x's entries at `rows` along `dim`."""
        ctx.save_for_backward(rows)
        ctx.num_rows, ctx.dim = x.shape[dim], dim  # type: ignore[attr-defined]
        return x.index_select(dim, rows)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Hand each entry's gradient back to where it came from."""
        (rows,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _put_back(grad, rows, ctx.num_rows, ctx.dim), None, None  # type: ignore[attr-defined]


def _put_back(grad: Tensor, rows: Tensor, num_rows: int, dim: int) -> Tensor:
    shape = list(grad.shape)
    shape[dim] = num_rows
    zeros = grad.new_zeros(shape)
    if rows.numel() == torch.unique(rows).numel():
        return zeros.index_copy_(dim, rows, grad)
    return zeros.index_add_(dim, rows, grad)
