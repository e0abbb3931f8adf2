"""Never-grown lives: trained once, kept within a limit, with the states that were asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from esper.leyline import ConfigError, Decision
from esper.simic.never_runs import NeverRuns
from esper.tolaria import Fleet, SerialFleet
from simic.growing import HORIZON, build_small_run
from tolaria.small_run import assert_same


def test_a_life_is_trained_once_and_equals_the_host_alone() -> None:
    runs = NeverRuns(build_small_run)
    life = runs.get(3)
    assert runs.get(3) is life
    assert runs.num_trained == 1
    alone = build_small_run(3)
    for epoch in range(1, HORIZON + 1):
        alone.apply(Decision())
        alone.train_epoch()
        assert life.metric(epoch) == alone.signals.metric
    assert life.metric(0) == 0.0
    assert life.metric(HORIZON + 5) == life.metric(HORIZON)


def test_the_least_recently_used_life_is_dropped_first() -> None:
    runs = NeverRuns(build_small_run, max_runs=2)
    for instance in (1, 3, 1, 5):
        runs.get(instance)
    assert runs.num_trained == 3
    runs.get(1)
    assert runs.num_trained == 3
    runs.get(3)
    assert runs.num_trained == 4


def test_states_are_kept_for_the_intervals_asked_for_and_never_for_a_finished_host() -> None:
    life = NeverRuns(build_small_run, start_epochs=(2, HORIZON)).get(1)
    assert set(life.states) == {2}
    run = build_small_run(1)
    run.restore(life.states[2])
    assert run.epoch == 2
    assert run.signals.metric == life.metric(2)


@pytest.mark.parametrize(("start_epochs", "max_runs"), [((0,), 4), ((3, -1), 4), ((), 0)])
def test_settings_out_of_range_are_refused(start_epochs: tuple[int, ...], max_runs: int) -> None:
    with pytest.raises(ConfigError):
        NeverRuns(build_small_run, start_epochs=start_epochs, max_runs=max_runs)


def test_a_block_of_lives_is_trained_by_one_fleet_and_gives_what_each_gives_alone() -> None:
    built: list[tuple[int, ...]] = []

    def build_fleet(instances: Sequence[int]) -> Fleet[object]:
        built.append(tuple(instances))
        return SerialFleet(build_small_run, instances, encode=tuple)

    blocks = ((1, 3), (5,))
    runs = NeverRuns(build_small_run, start_epochs=(2,), blocks=blocks, build_fleet=build_fleet)
    alone = NeverRuns(build_small_run, start_epochs=(2,))
    for instance in (3, 1, 5, 7):
        together, by_itself = runs.get(instance), alone.get(instance)
        assert together.metrics == by_itself.metrics
        assert_same(together.states[2].tensors, by_itself.states[2].tensors)
    assert built == [(1, 3)]
    assert runs.num_trained == 4
    assert runs.find_block(3) == (1, 3)
    assert runs.find_block(7) == (7,)


def test_a_cache_that_cannot_hold_a_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="hold a block"):
        NeverRuns(build_small_run, max_runs=1, blocks=((1, 3),))
