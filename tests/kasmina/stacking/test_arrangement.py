"""kasmina/stacking/arrangement.py: where each row's values lie."""

from __future__ import annotations

import pytest
import torch

from esper.kasmina.stacking import StackArrangement, to_arrangement
from esper.kasmina.stacking.arrangement import (
    map_to_rows,
    pool_map,
    rows_to_channels,
    spread_over_rows,
)
from kasmina.stacking.oracle import NUM_ROWS, draw, rows_first


@pytest.mark.parametrize("num_rows", NUM_ROWS)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_row_of_a_map_owns_channels_that_lie_side_by_side(num_rows: int, num_channels: int) -> None:
    batch = draw(num_rows, 4, num_channels, 5, 6)
    x = to_arrangement(batch, StackArrangement.MAPS)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for row in range(num_rows):
        assert torch.equal(x[:, row * num_channels : (row + 1) * num_channels], batch[row])
    x.permute(0, 2, 3, 1).view(4, 5, 6, num_rows, num_channels)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 6), (3, 4, 5, 6, 7)])
def test_rows_are_the_batch_itself(shape: tuple[int, ...]) -> None:
    batch = draw(*shape)
    assert to_arrangement(batch, StackArrangement.ROWS) is batch


def test_a_batch_of_another_rank_is_no_map() -> None:
    with pytest.raises(ValueError, match=r"\[R, B, C, H, W\], got \(3, 4, 5\)"):
        to_arrangement(draw(3, 4, 5), StackArrangement.MAPS)


@pytest.mark.parametrize("size", [1, 2])
def test_flattened_maps_are_in_the_order_of_torch(size: int) -> None:
    batch = draw(3, 4, 5, size, size)
    assert torch.equal(map_to_rows(to_arrangement(batch, StackArrangement.MAPS), 3), batch.flatten(2))


def test_pooling_is_the_mean_over_positions() -> None:
    batch = draw(3, 4, 5, 2, 6)
    pooled = pool_map(to_arrangement(batch, StackArrangement.MAPS)).view(4, 3, 5).transpose(0, 1)
    assert torch.allclose(pooled, batch.mean(dim=(3, 4)), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("arrangement", StackArrangement)
def test_values_per_row_meet_their_own_row_alone(arrangement: StackArrangement) -> None:
    batch, values = draw(3, 4, 5, 2, 6), torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    x = to_arrangement(batch, arrangement)
    got = rows_first(x * spread_over_rows(values, x, arrangement), arrangement, 3)
    assert torch.equal(got, batch * values.view(3, 1, 1, 1, 1))


def test_values_per_row_item_and_channel_meet_their_own_map_alone() -> None:
    batch, values = draw(3, 4, 5, 2, 6), draw(3, 4, 5, seed=1)
    x = to_arrangement(batch, StackArrangement.MAPS)
    got = rows_first(x * rows_to_channels(values), StackArrangement.MAPS, 3)
    assert torch.equal(got, batch * values[..., None, None])
