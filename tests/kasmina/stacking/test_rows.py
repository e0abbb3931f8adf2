"""kasmina/stacking/rows.py against plain indexing, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.kasmina import apply_blend
from esper.kasmina.stacking import (
    RowPartition,
    StackArrangement,
    blend_rows,
    join_stacked,
    take_rows,
    to_arrangement,
)
from kasmina.stacking.oracle import draw, rows_first

SHAPES = {
    "maps": (StackArrangement.MAPS, (4, 3, 2, 5)),
    "pixels": (StackArrangement.MAPS, (4, 3, 1, 1)),
    "features": (StackArrangement.ROWS, (4, 3)),
    "sequences": (StackArrangement.ROWS, (4, 2, 3)),
}
kinds = st.sampled_from(sorted(SHAPES))


def _gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    out = function(*leaves)
    loss = (out * draw(*out.shape, seed=77, dtype=out.dtype)).sum()
    return out.detach(), torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def _assert_same(got: tuple[Tensor, tuple[Tensor, ...]], wanted: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    assert torch.equal(got[0], wanted[0])
    for mine, plain in zip(got[1], wanted[1], strict=True):
        assert torch.allclose(mine, plain, rtol=0.0, atol=1e-12)


@given(kinds, st.integers(1, 6), st.data())
def test_taken_rows_are_those_of_plain_indexing(kind: str, num_rows: int, data: st.DataObject) -> None:
    arrangement, shape = SHAPES[kind]
    places = st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=8) | st.permutations(range(num_rows))
    rows = torch.tensor(data.draw(places))
    batch = draw(num_rows, *shape)

    def taken(x: Tensor) -> Tensor:
        part = take_rows(to_arrangement(x, arrangement), rows, arrangement, num_rows)
        if arrangement is StackArrangement.MAPS:
            assert part.is_contiguous(memory_format=torch.channels_last)
        return rows_first(part, arrangement, len(rows))

    _assert_same(_gradients(taken, batch), _gradients(lambda x: x[rows], batch))


@given(kinds, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_joined_rows_are_those_of_plain_indexing(kind: str, nums: list[int], data: st.DataObject) -> None:
    arrangement, shape = SHAPES[kind]
    num_rows = sum(nums)
    places = st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=8)
    drawn = data.draw(st.none() | places | st.permutations(range(num_rows)))
    order = None if drawn is None else torch.tensor(drawn)
    batches = [draw(num, *shape, seed=place) for place, num in enumerate(nums)]

    def joined(*parts: Tensor) -> Tensor:
        out = join_stacked([to_arrangement(each, arrangement) for each in parts], order, arrangement, nums)
        if arrangement is StackArrangement.MAPS:
            assert out.is_contiguous(memory_format=torch.channels_last)
        return rows_first(out, arrangement, num_rows if order is None else len(order))

    def plain(*parts: Tensor) -> Tensor:
        together = torch.cat(parts)
        return together if order is None else together[order]

    _assert_same(_gradients(joined, *batches), _gradients(plain, *batches))


@given(kinds, st.integers(1, 6), st.data())
def test_rows_taken_apart_and_joined_are_the_rows(kind: str, num_rows: int, data: st.DataObject) -> None:
    arrangement, shape = SHAPES[kind]
    order = torch.tensor(data.draw(st.permutations(range(num_rows))))
    cut = data.draw(st.integers(1, num_rows))
    groups = [group for group in (order[:cut], order[cut:]) if group.numel()]
    x = to_arrangement(draw(num_rows, *shape), arrangement)
    parts = [take_rows(x, group, arrangement, num_rows) for group in groups]
    back = join_stacked(parts, order.argsort(), arrangement, [group.numel() for group in groups])
    assert torch.equal(back, x)


def test_a_taken_row_is_a_copy() -> None:
    x = draw(3, 4)
    take_rows(x, torch.arange(3), StackArrangement.ROWS, 3).zero_()
    assert bool(x.count_nonzero())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SHAPES)
def test_blended_rows_equal_each_rows_own_blend(kind: str, dtype: torch.dtype) -> None:
    arrangement, shape = SHAPES[kind]
    h, residual = draw(3, *shape, dtype=dtype), draw(3, *shape, seed=1, dtype=dtype)
    alpha = torch.tensor([0.125, 0.5, 1.0], dtype=torch.float64 if dtype is torch.float64 else torch.float32)

    def blended(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
        out = blend_rows(
            to_arrangement(first, arrangement), to_arrangement(second, arrangement), factor, arrangement, 3
        )
        return rows_first(out, arrangement, 3)

    def separate(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
        if dtype is torch.float64:
            return torch.stack([torch.addcmul(first[i], second[i], factor[i]) for i in range(3)])
        return torch.stack([apply_blend(first[i], second[i], factor[i]) for i in range(3)])

    got, wanted = _gradients(blended, h, residual, alpha), _gradients(separate, h, residual, alpha)
    assert got[0].dtype == dtype
    assert torch.equal(got[0], wanted[0])
    for mine, plain in zip(got[1], wanted[1], strict=True):
        assert torch.allclose(mine, plain, rtol=1e-5, atol=1e-5)


def test_a_row_of_infinities_stays_in_its_row() -> None:
    batch = draw(3, 4, 3, 2, 2)
    batch[1] = torch.inf
    x = to_arrangement(batch, StackArrangement.MAPS).requires_grad_()
    taken = take_rows(x, torch.tensor([2, 0]), StackArrangement.MAPS, 3)
    assert bool(taken.isfinite().all())
    (grad,) = torch.autograd.grad(taken.sum(), x)
    rows = rows_first(grad, StackArrangement.MAPS, 3)
    assert torch.equal(rows[:, 0, 0, 0, 0], torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


@given(kinds, st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 4))
def test_rows_taken_apart_changed_and_put_together_are_those_of_plain_indexing(
    kind: str, rows: list[int], cuts: list[int], untouched: int
) -> None:
    arrangement, shape = SHAPES[kind]
    bounds = [0, *sorted(cuts), 5]
    groups = [rows[low:high] for low, high in pairwise(bounds) if high > low]
    partition = RowPartition(groups, arrangement, torch.device("cpu"))
    batch = draw(5, *shape)

    def apart(x: Tensor) -> Tensor:
        parts = list(partition.split(to_arrangement(x, arrangement)))
        for index in range(len(parts)):
            if index != untouched:
                parts[index] = parts[index].sin() * (index + 1)
        return rows_first(partition.join(parts), arrangement, 5)

    def plain(x: Tensor) -> Tensor:
        out = x.clone()
        for index, group in enumerate(groups):
            if index != untouched:
                out = out.index_copy(0, torch.tensor(group), x[group].sin() * (index + 1))
        return out

    _assert_same(_gradients(apart, batch), _gradients(plain, batch))


def test_a_group_that_nobody_uses_gets_no_gradient_and_spoils_none() -> None:
    partition = RowPartition([[1], [0, 2]], StackArrangement.ROWS, torch.device("cpu"))
    x = draw(3, 2, 4).requires_grad_()
    first, _ = partition.split(x)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert gradient.flatten(1).sum(dim=1).tolist() == [0.0, 8.0, 0.0]


@pytest.mark.parametrize("groups", [[[0, 1], [1]], [[0], [2]], [[1, 2]]])
def test_a_partition_that_leaves_out_or_repeats_a_row_is_refused(groups: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="expected each of 0 to"):
        RowPartition(groups, StackArrangement.ROWS, torch.device("cpu"))
