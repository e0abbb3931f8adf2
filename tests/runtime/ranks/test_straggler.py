from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed import HashStore  # type: ignore[attr-defined]

from esper.runtime.ranks import DistributedConfig
from esper.runtime.ranks.notes import RankNotes
from esper.runtime.ranks.straggler import Straggler

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

ON = DistributedConfig(preempt_after_fraction=0.6, preempt_least_fraction=0.25)


def build_ranks(store: Store, config: DistributedConfig = ON) -> list[Straggler]:
    return [Straggler(RankNotes(store), config, rank=rank, world_size=4) for rank in range(4)]


def test_a_rank_is_cut_once_enough_others_are_done_and_it_has_enough_steps_itself() -> None:
    ranks = build_ranks(HashStore())
    ranks[0].finish(5)
    ranks[1].finish(5)
    assert not ranks[3].cut_now(90, 100, 5)  # 2 of 4 are below 0.6
    ranks[2].finish(5)
    assert ranks[3].cut_now(25, 100, 5)
    assert not ranks[3].cut_now(24, 100, 5)
    assert not ranks[3].cut_now(90, 100, 6)


def test_nothing_is_cut_by_default_and_the_store_stays_empty() -> None:
    store = HashStore()
    ranks = build_ranks(store, DistributedConfig())
    for rank in ranks:
        rank.finish(0)
    assert not ranks[0].cut_now(100, 100, 0)
    assert store.num_keys() == 0


def test_counters_of_past_updates_are_removed() -> None:
    store = HashStore()
    ranks = build_ranks(store)
    for update in range(10):
        for rank in ranks:
            rank.finish(update)
    assert store.num_keys() == 1


class _Gone(HashStore):
    """A store whose host died."""

    def add(self, key: str, amount: int) -> int:
        raise RuntimeError("Broken pipe")


def test_a_store_that_is_gone_cuts_nothing() -> None:
    rank = Straggler(RankNotes(_Gone()), ON, rank=0, world_size=4)
    assert not rank.cut_now(50, 100, 0)
    rank.finish(0)
