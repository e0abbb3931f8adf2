"""Which host an episode gets: a pure function that visits every instance before one comes again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ConfigError
from esper.simic.instances import InstancePlan

PLAN = InstancePlan(seed=3, instances=tuple(range(10)), start_epochs=(0, 4, 8))


@given(env_id=st.integers(0, 50), lap=st.integers(0, 5))
def test_each_pass_meets_every_instance_once(env_id: int, lap: int) -> None:
    met = [PLAN.start(env_id, 10 * lap + place).instance for place in range(10)]
    assert sorted(met) == list(PLAN.instances)


def test_environments_and_passes_have_orders_of_their_own() -> None:
    orders = {
        tuple(PLAN.start(env_id, 10 * lap + place).instance for place in range(10))
        for env_id in range(3)
        for lap in range(2)
    }
    assert len(orders) == 6


def test_starts_are_drawn_evenly_and_repeat_for_the_same_question() -> None:
    starts = [PLAN.start(env_id, episode) for env_id in range(30) for episode in range(20)]
    assert starts == [PLAN.start(env_id, episode) for env_id in range(30) for episode in range(20)]
    for epoch in PLAN.start_epochs:
        share = sum(start.epoch == epoch for start in starts) / len(starts)
        assert 0.27 < share < 0.4  # a third, give or take three standard errors


@pytest.mark.parametrize(
    "given_fields",
    [
        {"instances": ()},
        {"instances": (1, 1)},
        {"instances": (1,), "start_epochs": ()},
        {"instances": (1,), "start_epochs": (-1,)},
    ],
)
def test_tables_that_make_no_sense_are_refused(given_fields: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError):
        InstancePlan(seed=0, **given_fields)
