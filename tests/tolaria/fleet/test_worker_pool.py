"""How rows are dealt to workers."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.fleet.worker_pool import deal_blocks, list_cores


@given(st.integers(1, 40), st.integers(1, 12))
def test_every_row_is_dealt_once_in_balanced_blocks_of_neighbours(num_rows: int, num_workers: int) -> None:
    blocks = deal_blocks(num_rows, num_workers)
    assert [row for block in blocks for row in block] == list(range(num_rows))
    assert len(blocks) == min(num_rows, num_workers)
    sizes = [len(block) for block in blocks]
    assert max(sizes) - min(sizes) <= 1


def test_workers_stay_on_the_cores_that_the_fleet_may_use() -> None:
    with patch("os.sched_getaffinity", lambda _: {5, 3}):
        assert list_cores() == (3, 5)
