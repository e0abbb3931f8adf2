from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.leyline import RankFailureError, RanksDisagreeError
from esper.runtime.ranks.channel import Channel, Operation
from runtime.ranks.thread_ranks import run_ranks


def test_tensors_are_gathered_in_the_order_of_ranks(tmp_path: Path) -> None:
    def work(channel: Channel) -> list[float]:
        channel.meet(Operation.ALL_MAX, length=1)
        mine = torch.tensor([float(channel.place.rank)])
        return [float(other) for other in channel.gather(Operation.ALL_MAX, mine)]

    assert run_ranks(tmp_path, 3, work) == [[0.0, 1.0, 2.0]] * 3


@pytest.mark.battery("T21")
def test_unequal_lengths_are_named_with_operation_and_ranks(tmp_path: Path) -> None:
    errors = run_ranks(
        tmp_path, 3, lambda channel: channel.meet(Operation.ALL_SUM, length=2 + (channel.place.rank == 1))
    )
    assert [type(error) for error in errors] == [RanksDisagreeError] * 3
    assert {str(error) for error in errors} == {
        "all_sum got sequences of unequal length: 2 on rank 0, 2; 3 on rank 1"
    }


@pytest.mark.battery("T21")
def test_different_operations_are_named_with_their_ranks_and_do_not_hang(tmp_path: Path) -> None:
    errors = run_ranks(
        tmp_path,
        2,
        lambda channel: channel.meet(Operation.GRADIENTS if channel.place.rank else Operation.BARRIER),
    )
    assert {str(error) for error in errors} == {
        "ranks entered different collectives: barrier on rank 0; gradients on rank 1"
    }


def test_a_rank_that_left_is_named_by_the_others(tmp_path: Path) -> None:
    def work(channel: Channel) -> None:
        channel.meet(Operation.BARRIER)
        if channel.place.rank == 1:
            return  # the end of the thread closes its connections
        channel.meet(Operation.BARRIER)

    first, left, last = run_ranks(tmp_path, 3, work)
    assert left is None
    for error in (first, last):
        assert isinstance(error, RankFailureError)
        assert error.rank == 1
        assert str(error).startswith("rank 1 stopped answering in phase start of step 0 (it left: finished;")
