from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import SingleProcess
from esper.simic.config import PPOConfig
from esper.simic.minibatches import MOST_BY_ITSELF, count_minibatches, draw_groups


class TwoRanks:
    """Rank 0 of two; the other answers every question by the number of its rows."""

    rank, world_size = 0, 2

    def __init__(self, rows_of_the_other: int) -> None:
        self._rows = rows_of_the_other

    def all_max(self, values: Sequence[float]) -> list[float]:
        return [max(value, -float(self._rows)) for value in values]

    def all_sum(self, values: Sequence[float]) -> list[float]:
        raise AssertionError("no sum is needed")

    def broadcast(self, values: Sequence[float]) -> list[float]:
        raise AssertionError("no broadcast is needed")

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data]

    def all_agree(self, digest: str) -> bool:
        raise AssertionError("no digest is needed")


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (3, 3), (8, MOST_BY_ITSELF), (50, MOST_BY_ITSELF)])
def test_without_a_number_every_row_is_a_minibatch_up_to_eight(rows: int, count: int) -> None:
    assert count_minibatches(PPOConfig(), rows, SingleProcess()) == count


@pytest.mark.parametrize("config", [PPOConfig(), PPOConfig(num_minibatches=3)])
def test_the_rank_with_the_fewest_rows_decides(config: PPOConfig) -> None:
    assert count_minibatches(config, 5, TwoRanks(3)) == 3


def test_more_minibatches_than_the_rows_of_any_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ppo.num_minibatches=4: .* there are 3; use at most 3"):
        count_minibatches(PPOConfig(num_minibatches=4), 5, TwoRanks(3))


def test_a_target_that_one_step_in_all_leaves_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_kl=0.015 cannot act: one row"):
        count_minibatches(PPOConfig(epochs=1), 1, SingleProcess())
    assert count_minibatches(PPOConfig(epochs=1, target_kl=0.0), 1, SingleProcess()) == 1
    assert count_minibatches(PPOConfig(epochs=2), 1, SingleProcess()) == 1


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 1000))
def test_a20_minibatches_are_whole_rows_each_once_per_epoch(rows: int, count: int, seed: int) -> None:
    count = min(count, rows)
    groups = draw_groups(rows, count, torch.Generator().manual_seed(seed))
    assert sorted(row for group in groups for row in group) == list(range(rows))
    assert len(groups) == count
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
