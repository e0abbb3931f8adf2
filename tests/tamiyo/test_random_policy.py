from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings

from builders import make_observation, make_report, make_space
from esper.leyline import (
    ConfigError,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo import RandomPolicy
from strategies import TAME_INTS, observations, wild_observations

# Upper 0.1 % points of chi-square with 1 to 4 degrees of freedom (tables).
CHI_SQUARE_LIMITS = {1: 10.828, 2: 13.816, 3: 16.266, 4: 18.467}

MIXED = make_observation(
    make_report("a"),
    make_report("b"),
    make_report("c", SeedStage.PROBATIONARY, can_fossilize=True),
    make_report("d", SeedStage.BLENDING),
)
"""WAIT anywhere, GERMINATE on a and b, FOSSILIZE on c, CULL and SET_ALPHA on c and d."""


def draw(policy: RandomPolicy, count: int, observation: Observation = MIXED) -> list[Decision]:
    return [policy.decide(observation) for _ in range(count)]


def chi_square(counts: Counter[str], names: set[str]) -> float:
    """Statistic of the counts against equal frequencies over `names`."""
    assert set(counts) == names
    expected = counts.total() / len(names)
    return sum((counts[name] - expected) ** 2 / expected for name in names)


def test_it_is_a_policy() -> None:
    assert isinstance(RandomPolicy(0), TamiyoPolicy)


def test_operations_are_uniform_over_the_legal_ones() -> None:
    counts = Counter(decision.action.op.value for decision in draw(RandomPolicy(0), 3000))
    names = {"WAIT", "GERMINATE", "FOSSILIZE", "CULL", "SET_ALPHA"}
    assert chi_square(counts, names) < CHI_SQUARE_LIMITS[4]


def test_slots_and_blueprints_are_uniform_given_the_operation() -> None:
    decisions = draw(RandomPolicy(1), 3000)
    births = [item.action for item in decisions if item.action.op is LifecycleOp.GERMINATE]
    slots = Counter(str(action.slot) for action in births)
    assert chi_square(slots, {"a", "b"}) < CHI_SQUARE_LIMITS[1]
    blueprints = Counter(str(action.blueprint) for action in births)
    names = {"norm", "depthwise", "conv_light", "conv_heavy"}
    assert chi_square(blueprints, names) < CHI_SQUARE_LIMITS[3]
    tempos = Counter(str(action.tempo_epochs) for action in births)
    assert chi_square(tempos, {"1", "3", "5", "8"}) < CHI_SQUARE_LIMITS[3]
    targets = Counter(str(action.alpha_target) for action in births)
    assert chi_square(targets, {"0.5", "0.7", "1.0"}) < CHI_SQUARE_LIMITS[2]


def test_the_germination_rate_replaces_its_share() -> None:
    decisions = draw(RandomPolicy(2, germination_rate=0.05), 3000)
    births = sum(item.action.op is LifecycleOp.GERMINATE for item in decisions)
    assert 150 - 36 < births < 150 + 36  # 3 standard deviations of sqrt(3000 x .05 x .95) = 11.9
    others = Counter(
        item.action.op.value for item in decisions if item.action.op is not LifecycleOp.GERMINATE
    )
    assert chi_square(others, {"WAIT", "FOSSILIZE", "CULL", "SET_ALPHA"}) < CHI_SQUARE_LIMITS[3]
    always = draw(RandomPolicy(2, germination_rate=1.0), 50)
    assert {item.action.op for item in always} == {LifecycleOp.GERMINATE}


def test_the_rate_says_nothing_where_germination_is_illegal() -> None:
    observation = make_observation(make_report("a", SeedStage.EMBARGOED))
    decision = RandomPolicy(0, germination_rate=1.0).decide(observation)
    assert decision.action.op is LifecycleOp.WAIT
    assert decision.reason == "drew WAIT among 1 legal operations"


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_the_unit_interval_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="germination_rate="):
        RandomPolicy(0, germination_rate=rate)


def assert_only_legal(observation: Observation) -> None:
    policy = RandomPolicy(3)
    for decision in draw(policy, 5, observation):
        assert refuse_action(decision.action, observation) is None
        assert decision.action.blueprint != "noop"
        assert decision.reason


@settings(max_examples=80)
@given(observations())
def test_it_never_proposes_an_illegal_action(observation: Observation) -> None:
    assert_only_legal(observation)


@settings(max_examples=50)
@given(wild_observations(TAME_INTS))
def test_broken_numbers_make_no_action_legal_that_is_not(observation: Observation) -> None:
    assert_only_legal(observation)


def test_equal_seeds_decide_equally_and_others_differ() -> None:
    first, second, third = (draw(RandomPolicy(seed), 30) for seed in (5, 5, 6))
    assert first == second
    assert first != third


def test_each_host_has_a_stream_of_its_own_however_long_the_last_one_took() -> None:
    short, long = RandomPolicy(5), RandomPolicy(5)
    draw(short, 3)
    draw(long, 20)
    short.reset()
    long.reset()
    after = draw(short, 30)
    assert after == draw(long, 30)
    assert after != draw(RandomPolicy(5), 30)


def test_a_restored_policy_replays_identically() -> None:
    first = RandomPolicy(7)
    first.reset()
    draw(first, 11)
    second = RandomPolicy(99)
    second.restore(json.loads(json.dumps(first.state())))
    assert draw(first, 40) == draw(second, 40)


def test_the_stream_of_the_next_host_survives_a_restore() -> None:
    first = RandomPolicy(7)
    first.reset()
    second = RandomPolicy(7)
    second.restore(first.state())
    first.reset()
    second.reset()
    assert draw(first, 10) == draw(second, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"internal": [1, 2, 3]},
        {"internal": "x"},
        {"internal": [0.5]},
        {"internal": [-1] * 625},
        {"version": 9},
        {"num_hosts": None},
        {"more": 0},
    ],
)
def test_a_malformed_memory_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    policy = RandomPolicy(7)
    before = policy.state()
    with pytest.raises(ForeignCheckpointError):
        policy.restore({**before, **change})
    assert policy.state() == before


def test_a_host_without_slots_gets_wait() -> None:
    empty = make_observation(make_report("a"))
    no_slots = Observation(
        signals=empty.signals,
        slots=(),
        budgets=empty.budgets,
        space=make_space([]),
        metric=empty.metric,
    )
    assert all(item.action.op is LifecycleOp.WAIT for item in draw(RandomPolicy(0), 5, no_slots))
