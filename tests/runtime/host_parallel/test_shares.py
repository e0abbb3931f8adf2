"""Rows are dealt without a gap, evenly, and never one alone of several."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esper.runtime.host_parallel.shares import deal_rows


@given(num_rows=st.integers(1, 300), world_size=st.integers(1, 9))
def test_every_row_is_dealt_once_in_order_and_nobody_gets_a_single_one_of_several(
    num_rows: int, world_size: int
) -> None:
    shares = [deal_rows(num_rows, rank, world_size) for rank in range(world_size)]
    assert [row for share in shares for row in share] == list(range(num_rows))
    sizes = [len(share) for share in shares if len(share)]
    assert max(sizes) - min(sizes) <= 1
    assert num_rows == 1 or min(sizes) >= 2


@given(num_rows=st.integers(1, 300), world_size=st.integers(1, 9))
def test_full_batches_are_dealt_to_all(num_rows: int, world_size: int) -> None:
    if num_rows >= 2 * world_size:
        assert all(deal_rows(num_rows, rank, world_size) for rank in range(world_size))
