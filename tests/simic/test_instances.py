"""Which host an episode gets: a pure function that visits every instance before one comes again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ConfigError
from esper.simic.instances import InstancePlan

PLAN = InstancePlan(seed=3, instances=tuple(range(10)), start_epochs=(0, 4, 8))


@st.composite
def plans_with_first_instances(draw: st.DrawFn) -> InstancePlan:
    instances = tuple(draw(st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True)))
    first = draw(st.lists(st.sampled_from(instances), min_size=1, unique=True))
    return InstancePlan(
        seed=draw(st.integers(0, 2**32)),
        instances=instances,
        start_epochs=(0, 4),
        first_instances=tuple(first),
        num_first_episodes=draw(st.integers(1, 12)),
    )


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


@given(plan=plans_with_first_instances(), env_id=st.integers(0, 50))
def test_the_first_episodes_meet_each_first_instance_equally_often_and_no_other(
    plan: InstancePlan, env_id: int
) -> None:
    met = [plan.start(env_id, episode).instance for episode in range(plan.num_first_episodes)]
    counts = [met.count(instance) for instance in plan.first_instances]
    assert sum(counts) == plan.num_first_episodes
    assert max(counts) - min(counts) <= 1


@given(plan=plans_with_first_instances(), env_id=st.integers(0, 50), lap=st.integers(0, 3))
def test_after_the_first_episodes_each_pass_meets_every_instance_once(
    plan: InstancePlan, env_id: int, lap: int
) -> None:
    begin = plan.num_first_episodes + lap * len(plan.instances)
    met = [plan.start(env_id, begin + place).instance for place in range(len(plan.instances))]
    assert sorted(met) == sorted(plan.instances)


@given(plan=plans_with_first_instances(), env_id=st.integers(0, 50), episode=st.integers(0, 30))
def test_first_episodes_put_later_ones_off_and_leave_the_epochs_as_they_are(
    plan: InstancePlan, env_id: int, episode: int
) -> None:
    plain = replace(plan, first_instances=(), num_first_episodes=0)
    later = plan.start(env_id, plan.num_first_episodes + episode)
    assert later.instance == plain.start(env_id, episode).instance
    assert plan.start(env_id, episode).epoch == plain.start(env_id, episode).epoch


@given(plan=plans_with_first_instances(), env_id=st.integers(0, 50), episode=st.integers(0, 30))
def test_where_an_episode_begins_does_not_depend_on_what_was_asked_before(
    plan: InstancePlan, env_id: int, episode: int
) -> None:
    start = replace(plan).start(env_id, episode)
    for other in (episode + 5, 0, episode):
        plan.start(env_id + 1, other)
    assert plan.start(env_id, episode) == start


@pytest.mark.parametrize(
    "given_fields",
    [
        {"instances": ()},
        {"instances": (1, 1)},
        {"instances": (1,), "start_epochs": ()},
        {"instances": (1,), "start_epochs": (-1,)},
        {"instances": (1, 2), "first_instances": (3,), "num_first_episodes": 1},
        {"instances": (1, 2), "first_instances": (1, 1), "num_first_episodes": 1},
        {"instances": (1, 2), "num_first_episodes": 1},
        {"instances": (1, 2), "first_instances": (1,)},
        {"instances": (1, 2), "num_first_episodes": -1},
    ],
)
def test_tables_that_make_no_sense_are_refused(given_fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        InstancePlan(seed=0, **given_fields)  # type: ignore[arg-type]
