from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import SingleProcess
from esper.simic.config import PPOConfig
from esper.simic.minibatches import (
    MOST_BY_ITSELF,
    count_minibatches,
    draw_groups,
    plan_minibatches,
)


class KnownRanks:
    """One of several ranks whose numbers of rows are known."""

    def __init__(self, rank: int, rows: Sequence[int]) -> None:
        self.rank, self.world_size = rank, len(rows)
        self._rows = rows

    def all_sum(self, values: Sequence[float]) -> list[float]:
        assert [value for rank, value in enumerate(values) if rank != self.rank] == [0.0] * (
            self.world_size - 1
        )
        assert values[self.rank] == self._rows[self.rank]
        return [float(rows) for rows in self._rows]

    def all_max(self, values: Sequence[float]) -> list[float]:
        raise AssertionError("no maximum is needed")

    def broadcast(self, values: Sequence[float]) -> list[float]:
        raise AssertionError("no broadcast is needed")

    def gather_bytes(self, data: bytes) -> list[bytes]:
        raise AssertionError("no bytes are needed")

    def all_agree(self, digest: str) -> bool:
        raise AssertionError("no digest is needed")


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (3, 3), (8, MOST_BY_ITSELF), (50, MOST_BY_ITSELF)])
def test_without_a_number_every_row_is_a_minibatch_up_to_eight(rows: int, count: int) -> None:
    assert count_minibatches(PPOConfig(), rows) == count


@pytest.mark.parametrize(("config", "count"), [(PPOConfig(), 8), (PPOConfig(num_minibatches=3), 3)])
def test_minibatches_are_counted_over_the_rows_of_all_ranks(config: PPOConfig, count: int) -> None:
    for rank, first in enumerate((0, 5)):
        plan = plan_minibatches(config, (5, 3)[rank], KnownRanks(rank, (5, 3)))
        assert (plan.count, plan.first_row, plan.num_total) == (count, first, 8)


def test_more_minibatches_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ppo.num_minibatches=9: .* there are 8; use at most 8"):
        plan_minibatches(PPOConfig(num_minibatches=9), 5, KnownRanks(0, (5, 3)))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 8), st.integers(0, 1000))
def test_ranks_share_the_very_minibatches_of_one_process(rows: list[int], count: int, seed: int) -> None:
    config = PPOConfig(num_minibatches=min(count, sum(rows)), target_kl=0.0)
    whole = plan_minibatches(config, sum(rows), SingleProcess()).draw(torch.Generator().manual_seed(seed))
    shares = []
    for rank, num_rows in enumerate(rows):
        plan = plan_minibatches(config, num_rows, KnownRanks(rank, rows))
        groups = plan.draw(torch.Generator().manual_seed(seed))
        shares.append([[plan.first_row + row for row in group] for group in groups])
    together = [sorted(row for share in shares for row in share[k]) for k in range(len(whole))]
    assert together == [sorted(group) for group in whole]


def test_a_target_that_one_step_in_all_leaves_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_kl=0.015 cannot act: one row"):
        count_minibatches(PPOConfig(epochs=1), 1)
    assert count_minibatches(PPOConfig(epochs=1, target_kl=0.0), 1) == 1
    assert count_minibatches(PPOConfig(epochs=2), 1) == 1


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 1000))
def test_a20_minibatches_are_whole_rows_each_once_per_epoch(rows: int, count: int, seed: int) -> None:
    count = min(count, rows)
    groups = draw_groups(rows, count, torch.Generator().manual_seed(seed))
    assert sorted(row for group in groups for row in group) == list(range(rows))
    assert len(groups) == count
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
