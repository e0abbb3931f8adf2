"""Ranks as threads that walk through rollouts of their own speed and stop where all stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore  # type: ignore[attr-defined]

from esper.leyline import RankFailureError
from esper.runtime.ranks import Heartbeat
from esper.runtime.ranks.guard import Guard
from esper.runtime.ranks.notes import RankNotes
from esper.runtime.ranks.stop_agreement import StopAgreement

NUM_STEPS = 6


@dataclass
class Walk:
    """What one rank does: when it wants to stop, where its rollout ends by itself, how far it is ahead."""

    wanted_at: int | None = None
    length: int = NUM_STEPS
    first: int = 1
    stopped_at: list[int] = field(default_factory=list)


def walk_together(folder: Path, walks: list[Walk], *, timeout_s: float = 30.0) -> None:
    """Let every rank walk through update 3 until it stops or is done."""
    store = HashStore()
    heartbeats = [Heartbeat(folder, rank=rank, session="threads", every_s=0.05) for rank in range(len(walks))]

    def run(rank: int) -> None:
        walk, own = walks[rank], heartbeats[rank]
        stops = build_stops(folder, store, rank, len(walks), heartbeat=own, timeout_s=timeout_s)
        for step in range(walk.first, walk.length + 1):
            if stops.should_stop(walk.wanted_at is not None and step >= walk.wanted_at, step, 3):
                walk.stopped_at.append(step)
                return
        stops.finish(3)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(walks))]
    for heartbeat in heartbeats:
        heartbeat.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for heartbeat in heartbeats:
        heartbeat.close()
    assert not any(thread.is_alive() for thread in threads)


def build_stops(
    folder: Path,
    store: HashStore,
    rank: int,
    world_size: int,
    *,
    timeout_s: float = 30.0,
    heartbeat: Heartbeat | None = None,
) -> StopAgreement:
    """A rank's part; without a heartbeat that beats nobody else looks for its own."""
    own = heartbeat or Heartbeat(folder, rank=rank, session="threads", every_s=0.05)
    return StopAgreement(
        RankNotes(store),
        Guard(own, folder, world_size=world_size, silence_s=0.3),
        rank=rank,
        world_size=world_size,
        num_steps=NUM_STEPS,
        timeout_s=timeout_s,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


WALKS = st.builds(
    Walk, wanted_at=st.none() | st.integers(1, NUM_STEPS), length=st.integers(NUM_STEPS - 2, NUM_STEPS)
)


@pytest.mark.battery("T25")
@settings(max_examples=40, deadline=None)
@given(walks=st.lists(WALKS, min_size=1, max_size=3))
def test_all_ranks_stop_at_the_same_step_or_none_does(folder: Path, walks: list[Walk]) -> None:
    fresh = [Walk(wanted_at=walk.wanted_at, length=walk.length) for walk in walks]
    walk_together(folder, fresh)
    places = {tuple(walk.stopped_at) for walk in fresh}
    assert len(places) == 1
    assert places <= {(), *((step,) for step in range(1, NUM_STEPS))}
    if all(walk.wanted_at is None for walk in fresh):
        assert places == {()}


@pytest.mark.parametrize("timeout_s", [0.2, 30.0])
def test_nobody_stops_at_a_step_before_which_one_ranks_rollout_ended(folder: Path, timeout_s: float) -> None:
    walks = [Walk(wanted_at=1, length=NUM_STEPS - 2), Walk(first=NUM_STEPS - 1), Walk(first=3)]
    walk_together(folder, walks, timeout_s=timeout_s)
    assert [walk.stopped_at for walk in walks] == [[], [], []]


def test_alone_a_rank_stops_where_it_wants(folder: Path) -> None:
    walk = Walk(wanted_at=2)
    walk_together(folder, [walk])
    assert walk.stopped_at == [2]


def test_after_a_stop_for_a_while_the_ranks_can_stop_again_in_the_same_rollout(folder: Path) -> None:
    store = HashStore()
    stops = build_stops(folder, store, 0, 1)
    assert stops.should_stop(True, 1, 0)
    stops.go_on()
    assert not stops.should_stop(False, 2, 0)
    assert stops.should_stop(True, 3, 0)
    stops.go_on()
    stops.finish(0)
    assert not stops.should_stop(False, 1, 1)
    stops.finish(1)
    stops.finish(2)
    assert store.num_keys() == 1, "notes of past rollouts are removed"


def test_a_rank_that_died_before_its_post_is_named(tmp_path: Path) -> None:
    dead = Heartbeat(tmp_path, rank=1, session="threads", every_s=0.05)
    dead.start()
    dead.close("MemoryError")
    stops = build_stops(tmp_path, HashStore(), 0, 2)
    with pytest.raises(
        RankFailureError, match=r"rank 1 .*left: MemoryError.*agreeing where to stop"
    ) as found:
        stops.should_stop(True, 1, 0)
    assert found.value.rank == 1


def test_a_rank_that_beats_but_finishes_no_step_is_named(tmp_path: Path) -> None:
    stuck = Heartbeat(tmp_path, rank=1, session="threads", every_s=0.05)
    stuck.start()
    stops = build_stops(tmp_path, HashStore(), 0, 2, timeout_s=0.2)
    with pytest.raises(RankFailureError, match=r"rank 1 finished no step within 0.2 s"):
        stops.should_stop(True, 1, 0)
    stuck.close()


class _Gone(HashStore):
    """A store whose host died."""

    def add(self, key: str, amount: int) -> int:
        raise RuntimeError("Broken pipe")


def test_without_a_store_nobody_stops_within_a_rollout(folder: Path) -> None:
    stops = build_stops(folder, _Gone(), 0, 2)
    assert not stops.should_stop(True, 1, 0)
