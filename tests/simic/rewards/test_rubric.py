"""Weighted terms, their sum, their bound, and the memory of an episode."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import ConfigError, ForeignCheckpointError
from esper.simic.rewards.config import REWARD_MODES, RewardConfig
from esper.simic.rewards.costs import GovernorPenalty, Intervention
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.modes import build_rubric
from esper.simic.rewards.rubric import (
    RewardState,
    RewardTerm,
    RewardTermSpec,
    Rubric,
    TermMemory,
    WeightedTerm,
    read_number,
)
from simic.rewards.fact_strategies import scripted_episodes
from simic.rewards.scripted_host import DISCOUNT, grow, pay, play


def make_spec(name: str = "mine", low: float = -1.0, high: float = 1.0) -> RewardTermSpec:
    return RewardTermSpec(name=name, formula="1", unit="1", low=low, high=high, why="test")


class Counter:
    """Pays a tenth of the steps so far; needs its memory."""

    spec = make_spec("counter", 0.0, 10.0)

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        memory["steps"] = read_number(memory, "steps", 0.0) + 1.0
        return 0.1 * read_number(memory, "steps", 0.0)


class Constant:
    """Pays the same always."""

    def __init__(self, value: float, spec: RewardTermSpec) -> None:
        self.value, self.spec = value, spec

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        return self.value


def test_the_total_is_the_exact_sum_of_weighted_and_scaled_shares() -> None:
    terms = [
        WeightedTerm(Constant(0.3, make_spec("x")), 2.0),
        WeightedTerm(Constant(-0.7, make_spec("y")), 0.5),
        WeightedTerm(Constant(1.0, make_spec("left_out")), 0.0),
    ]
    state = RewardState(Rubric(terms, scale=0.4))
    reward = state.compute(play(grow())[0])
    assert reward.terms == {"x": 0.4 * 2.0 * 0.3, "y": 0.4 * 0.5 * -0.7}
    assert reward.total == sum(reward.terms.values())
    assert reward.total == pytest.approx(0.1)


def test_a_rubric_that_could_exceed_its_bound_is_refused_with_the_scale_that_would_do() -> None:
    terms = [WeightedTerm(Intervention(), 3.0), WeightedTerm(GovernorPenalty(), 1.0)]
    with pytest.raises(ConfigError, match=r"could reach 4 in one step, allowed is 1: .*scale to 0\.25"):
        Rubric(terms)
    assert Rubric(terms, scale=0.25).largest_total == 1.0
    assert Rubric(terms, bound=4.0).largest_total == 4.0


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_are_negative_or_not_finite_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="'governor': weight="):
        Rubric([WeightedTerm(GovernorPenalty(), weight)])


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"reward\.scale="):
        Rubric([], scale=scale)


def test_two_terms_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="governor: each name may occur once"):
        Rubric([WeightedTerm(GovernorPenalty(), 0.1), WeightedTerm(GovernorPenalty(), 0.2)])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("two words", -1.0, 1.0),
        ("x", 0.5, 1.0),
        ("x", -1.0, -0.5),
        ("x", -math.inf, 1.0),
        ("x", 0.0, math.nan),
    ],
)
def test_a_spec_without_a_usable_name_or_range_is_refused(name: str, low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="reward term"):
        make_spec(name, low, high)


@pytest.mark.parametrize("value", [1.1, -1.1, math.nan, math.inf])
def test_a_term_that_leaves_its_range_stops_the_step_and_is_named(value: float) -> None:
    state = RewardState(Rubric([WeightedTerm(Constant(value, make_spec("mine")), 1.0)]))
    with pytest.raises(ConfigError, match=r"reward term 'mine' gave .* range is \[-1.0, 1.0\]"):
        state.compute(play(grow())[0])


def test_memories_last_for_an_episode_and_are_apart_for_each_row() -> None:
    facts = play(grow())[0]
    rubric = Rubric([WeightedTerm(Counter(), 0.1)])
    one, other = RewardState(rubric), RewardState(rubric)
    assert [one.compute(facts).total for _ in range(3)] == pytest.approx([0.01, 0.02, 0.03])
    assert other.compute(facts).total == pytest.approx(0.01)
    one.reset()
    assert one.compute(facts).total == pytest.approx(0.01)
    assert one.rubric is rubric
    assert rubric.names == ("counter",)


def test_a_saved_state_is_a_copy() -> None:
    state = RewardState(Rubric([WeightedTerm(Counter(), 0.1)]))
    facts = play(grow())[0]
    state.compute(facts)
    saved = state.state()
    state.compute(facts)
    assert saved == {"counter": {"steps": 1.0}}
    state.restore(saved)
    state.compute(facts)
    assert saved == {"counter": {"steps": 1.0}}


def test_a_state_of_other_terms_or_shape_is_refused_and_changes_nothing() -> None:
    state = RewardState(Rubric([WeightedTerm(Counter(), 0.1)]))
    state.compute(play(grow())[0])
    with pytest.raises(
        ForeignCheckpointError, match="saved reward has the terms other, this one has counter"
    ):
        state.restore({"other": {}})
    with pytest.raises(ForeignCheckpointError, match="terms none"):
        state.restore({})
    with pytest.raises(ForeignCheckpointError, match="memory of reward term 'counter' is no table"):
        state.restore({"counter": 3})
    assert state.state() == {"counter": {"steps": 1.0}}


@settings(max_examples=30)
@given(episode=scripted_episodes(), part=st.floats(0.0, 1.0))
def test_bug11_a_resumed_episode_pays_bit_for_bit_what_an_uninterrupted_one_pays(
    episode: list[StepFacts], part: float
) -> None:
    cut = round(part * len(episode))
    for mode in REWARD_MODES:
        rubric = build_rubric(RewardConfig(mode=mode), discount=DISCOUNT)
        state = RewardState(rubric)
        rewards = [state.compute(facts) for facts in episode[:cut]]
        saved = json.loads(json.dumps(state.state(), allow_nan=False))
        resumed = RewardState(rubric)
        resumed.restore(saved)
        rewards += [resumed.compute(facts) for facts in episode[cut:]]
        assert rewards == pay(episode, mode)


def test_what_is_no_number_in_a_memory_reads_as_the_default() -> None:
    assert read_number({"x": 2}, "x", 0.5) == 2.0
    assert read_number({"x": "2"}, "x", 0.5) == 0.5
    assert read_number({}, "x", 0.5) == 0.5


def test_a_class_with_a_spec_and_compute_is_a_term() -> None:
    term: RewardTerm = Counter()
    assert term.spec.largest == 10.0
