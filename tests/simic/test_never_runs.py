"""Never-grown lives: trained once, kept within a limit, with the states that were asked for."""

from __future__ import annotations

import pytest

from esper.leyline import ConfigError, Decision
from esper.simic.never_runs import NeverRuns
from simic.growing import HORIZON, build_small_run


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
