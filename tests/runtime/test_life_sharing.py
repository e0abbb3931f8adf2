"""Never-grown lives are trained once by all ranks together, and are those that each would have trained."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from esper.leyline import SingleProcess
from esper.runtime.life_sharing import pack_lives, share_lives, unpack_lives
from esper.simic import NeverRuns
from esper.tolaria import HostRun
from simic.growing import build_small_run
from simic.thread_ranks import ThreadRanks

_ONE_AT_A_TIME = threading.Lock()
"""Ranks are threads here, and a host run borrows the process's random stream while it trains."""


class CountedHosts:
    """Builds hosts, whose training takes turns with that of other threads."""

    def __init__(self) -> None:
        self.built: list[int] = []

    def build(self, instance: int) -> HostRun:
        self.built.append(instance)
        with _ONE_AT_A_TIME:
            run = build_small_run(instance)
        for name in ("apply", "train_epoch"):
            object.__setattr__(run, name, take_turns(getattr(run, name)))
        return run


def take_turns(method: Callable[..., object]) -> Callable[..., object]:
    def locked(*arguments: object) -> object:
        with _ONE_AT_A_TIME:
            return method(*arguments)

    return locked


def test_a_life_arrives_as_it_was_trained_with_its_states() -> None:
    life = NeverRuns(build_small_run, start_epochs=(2, 4)).get(3)
    back = unpack_lives(pack_lives({3: life}))[3]
    assert back.metrics == life.metrics
    assert set(back.states) == {2, 4}
    for epoch, record in life.states.items():
        assert all(torch.equal(x, back.states[epoch].tensors[name]) for name, x in record.tensors.items())
    run = build_small_run(3)
    run.restore(back.states[4])
    assert run.epoch == 4


def test_each_life_is_trained_by_one_rank_and_kept_by_all() -> None:
    ranks, wanted = ThreadRanks(2), ((1, 3), (3, 5))
    builders = [CountedHosts(), CountedHosts()]
    caches = [NeverRuns(builder.build) for builder in builders]
    threads = [
        threading.Thread(target=share_lives, args=(caches[rank], wanted[rank], ranks.rank(rank)))
        for rank in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(builders[0].built + builders[1].built) == [1, 3, 5]
    assert all(cache.find_missing((1, 3, 5)) == [] for cache in caches)
    alone = NeverRuns(build_small_run)
    for number in (1, 3, 5):
        assert [cache.get(number).metrics for cache in caches] == [alone.get(number).metrics] * 2


def test_alone_everything_that_lacks_is_trained_and_nothing_twice() -> None:
    builder = CountedHosts()
    runs = NeverRuns(builder.build)
    for _ in range(2):
        share_lives(runs, (5, 1, 5), SingleProcess())
    assert builder.built == [1, 5]
