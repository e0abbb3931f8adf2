"""Rows of an activation: some of them taken out, put together, blended by an alpha of their own.

A map is taken as a matrix [B H W, R C] whose columns are selected: on the CPU that is faster, there and back,
than selecting along the middle axis of [B, H, W, R, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import torch
from torch import Tensor

from esper.kasmina.stacking.arrangement import spread_over_rows
from esper.kasmina.stacking.contract import StackArrangement


class RowContext(Protocol):
    """What autograd keeps between the two passes."""

    partition: RowPartition


def take_rows(x: Tensor, rows: Tensor, arrangement: StackArrangement, num_rows: int) -> Tensor:
    """Return a copy of some rows, in the same arrangement.

    Args:
        x: Activation of R = `num_rows` rows.
        rows: [g] int64, each in [0, R), in any order, repeats allowed.
        arrangement: Of x.
        num_rows: R.

    Example:
        >>> take_rows(torch.tensor([[1], [2], [3]]), torch.tensor([2, 0]), StackArrangement.ROWS, 3)
        tensor([[3],
                [1]])
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

    Example:
        >>> parts = [torch.zeros(1, 2), torch.ones(1, 2)]
        >>> join_stacked(parts, torch.tensor([1, 0]), StackArrangement.ROWS, [1, 1])
        tensor([[1., 1.],
                [0., 0.]])
    """
    joined = torch.cat(tuple(parts), dim=0 if arrangement is StackArrangement.ROWS else 1)
    return joined if order is None else take_rows(joined, order, arrangement, sum(nums))


@final
class RowPartition:
    """Rows of an activation in groups, each row in exactly one: taken apart, and put together again.

    The gradient of a group goes to rows that no other group has. Left to itself, autograd would fill and add
    a whole activation for every group; here each row is copied once, there and back.

    Example:
        partition = RowPartition([[0, 2], [1]], StackArrangement.ROWS, x.device)
        first, second = partition.split(x)
        same = partition.join([first, second])
    """

    def __init__(
        self, groups: Sequence[Sequence[int]], arrangement: StackArrangement, device: torch.device
    ) -> None:
        """Name the groups.

        Args:
            groups: Rows of each; together every row of the activation once.
            arrangement: Of the activations.
            device: Where they are.

        Raises:
            ValueError: If a row is missing or in two groups.
        """
        rows = [row for group in groups for row in group]
        if sorted(rows) != list(range(len(rows))):
            raise ValueError(f"groups of rows {rows}: expected each of 0 to {len(rows) - 1} once")
        order = sorted(range(len(rows)), key=rows.__getitem__)
        self.arrangement = arrangement
        self.groups = tuple(torch.tensor(list(group), device=device, dtype=torch.int64) for group in groups)
        self.nums = tuple(len(group) for group in groups)
        self.num_rows = len(rows)
        self._order = torch.tensor(order, device=device, dtype=torch.int64)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of each group, as copies."""
        found: tuple[Tensor, ...] = _Split.apply(self, x)  # type: ignore[no-untyped-call]
        return found

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the groups' rows in their own places."""
        joined: Tensor = _Join.apply(self, *parts)  # type: ignore[no-untyped-call]
        return joined

    def take(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what `split` does, without a way back."""
        return tuple(take_rows(x, group, self.arrangement, self.num_rows) for group in self.groups)

    def put(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what `join` does, without a way back."""
        return join_stacked(parts, self._order, self.arrangement, self.nums)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: RowContext, partition: RowPartition, x: Tensor) -> tuple[Tensor, ...]:
        ctx.partition = partition
        return partition.take(x)

    @staticmethod
    def backward(ctx: RowContext, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, ctx.partition.put(gradients)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: RowContext, partition: RowPartition, *parts: Tensor) -> Tensor:
        ctx.partition = partition
        return partition.put(parts)

    @staticmethod
    def backward(ctx: RowContext, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.partition.take(gradient)


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

    Example:
        >>> h = torch.ones(2, 1)
        >>> blend_rows(h, h, torch.tensor([0.0, 1.0]), StackArrangement.ROWS, 2)
        tensor([[1.],
                [2.]])
    """
    assert alpha.shape == (num_rows,)
    wide = torch.promote_types(torch.promote_types(h.dtype, residual.dtype), torch.float32)
    factor = spread_over_rows(alpha.to(wide), h, arrangement)
    return torch.addcmul(h.to(wide), residual.to(wide), factor).to(h.dtype)
