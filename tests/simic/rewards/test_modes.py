"""The modes: what they are made of, that they stay within their bound, and that they rank policies right."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import ConfigError
from esper.simic.rewards.config import REWARD_MODES, LossRewardConfig, RewardConfig
from esper.simic.rewards.costs import GovernorPenalty, Intervention
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.modes import MODE_SUMMARIES, build_rubric, build_terms
from esper.simic.rewards.rubric import RewardState, RewardTermSpec, TermMemory, WeightedTerm
from esper.simic.rewards.shaping import StagePotential, compute_potential
from simic.rewards.fact_strategies import wild_facts
from simic.rewards.scripted_host import DISCOUNT, earn, grow, never, pay, play, sum_shares, sum_up

MODES = pytest.mark.parametrize("mode", REWARD_MODES)


class Bonus:
    """A user's own term."""

    spec = RewardTermSpec(name="bonus", formula="1", unit="1", low=0.0, high=1.0, why="test")

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        return 1.0


@settings(max_examples=20)
@given(episode=st.lists(wild_facts(), min_size=1, max_size=2))
def test_any_numbers_pay_within_the_bounds_and_add_up(episode: list[StepFacts]) -> None:
    for mode in REWARD_MODES:
        rubric = build_rubric(RewardConfig(mode=mode), discount=DISCOUNT)
        largest = {item.term.spec.name: rubric.largest_share(item) for item in rubric.terms}
        state = RewardState(rubric)
        for facts in episode:
            reward = state.compute(facts)
            assert tuple(reward.terms) == rubric.names
            assert reward.total == sum(reward.terms.values())
            assert abs(reward.total) <= 1.0
            assert all(abs(share) <= largest[name] + 1e-9 for name, share in reward.terms.items())


@MODES
def test_no_step_of_a_mode_can_exceed_one(mode: str) -> None:
    assert build_rubric(RewardConfig(mode=mode), discount=DISCOUNT).largest_total <= 1.0
    assert mode in MODE_SUMMARIES


def test_shaping_has_the_discount_that_the_learner_has() -> None:
    for discount in (0.0, 0.9, 1.0):
        shaping = build_terms(RewardConfig(), discount=discount)["stage_potential"].term
        assert isinstance(shaping, StagePotential)
        facts = play(grow("good"))[1]
        before, after = compute_potential(facts.before), compute_potential(facts.after)
        assert after > 0
        assert shaping.compute(facts, {}) == pytest.approx(discount * after - before)


@MODES
def test_useful_growth_earns_more_than_none_and_more_of_it_more_still(mode: str) -> None:
    assert earn(grow("good", "better"), mode) > earn(grow("good"), mode) > earn(never, mode)


@MODES
def test_never_growing_earns_nothing_but_the_fall_of_its_own_loss(mode: str) -> None:
    rewards = pay(play(never), mode)
    paid = {name for reward in rewards for name, share in reward.terms.items() if abs(share) > 1e-12}
    assert paid == ({"loss_fall"} if mode == "loss" else set())


@MODES
def test_bug05_rewards_know_one_scale_and_are_linear_in_it(mode: str) -> None:
    episode = play(grow("good", "harmful"))
    whole, half = pay(episode, mode), pay(episode, mode, RewardConfig(mode=mode, scale=0.025))
    for one, other in zip(whole, half, strict=True):
        assert {name: share / 2.0 for name, share in one.terms.items()} == pytest.approx(dict(other.terms))


def test_every_term_belongs_to_a_mode_and_weights_come_from_the_configuration() -> None:
    used = {
        name for mode in REWARD_MODES for name in build_rubric(RewardConfig(mode=mode), discount=1.0).names
    }
    assert used == set(build_terms(RewardConfig(), discount=1.0))
    terms = build_terms(
        RewardConfig(
            failure_price=1.1,
            shaping_weight=1.2,
            contribution_weight=1.3,
            intervention_price=1.4,
            young_cull_price=1.5,
            indecision_price=1.6,
            loss=LossRewardConfig(weight=1.7),
        ),
        discount=1.0,
    )
    weights = {name: item.weight for name, item in terms.items() if item.weight != 1.0}
    assert weights == {
        "governor": 1.1,
        "stage_potential": 1.2,
        "contribution": 1.3,
        "intervention": 1.4,
        "young_cull": 1.5,
        "indecision": 1.6,
        "loss_fall": 1.7,
    }


def test_bounds_errors_and_ages_come_from_the_configuration() -> None:
    config = RewardConfig(
        lead_bound=3.0,
        rent_bound=0.2,
        contribution_bound=1.5,
        contribution_errors=2.5,
        young_cull_epochs=8,
        indecision_patience_epochs=6,
        loss=LossRewardConfig(bound=1.25, grace_epochs=9),
    )
    specs = {name: item.term.spec for name, item in build_terms(config, discount=1.0).items()}
    assert specs["metric_lead"].high == specs["final_metric_lead"].high == 6.0
    assert specs["parameter_rent"].high == specs["flops_rent"].high == specs["rent_after_grace"].high == 0.2
    assert specs["contribution"].high == 3.0
    assert "2.5 s.e." in specs["contribution"].formula
    assert "younger than 8" in specs["young_cull"].formula
    assert "- 6)" in specs["indecision"].formula
    assert specs["loss_fall"].high == 1.25
    assert "older than 9" in specs["rent_after_grace"].formula


def test_prices_of_size_and_compute_come_from_the_configuration() -> None:
    episode = play(grow("good"))
    dear = RewardConfig(lambda_p=0.5, lambda_f=1.0)
    for name in ("parameter_rent", "flops_rent"):
        assert sum_shares(pay(episode, "gain", dear), name) == pytest.approx(
            (10.0 if name == "parameter_rent" else 20.0) * sum_shares(pay(episode, "gain"), name)
        )


def test_a_users_term_joins_the_sum_at_its_weight() -> None:
    rubric = build_rubric(RewardConfig(), discount=DISCOUNT, extra=[WeightedTerm(Bonus(), 2.0)])
    reward = RewardState(rubric).compute(play(never)[0])
    assert reward.terms["bonus"] == 0.05 * 2.0
    assert reward.total == pytest.approx(0.1)


def test_a_users_term_that_breaks_the_bound_or_takes_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="could reach"):
        build_rubric(RewardConfig(), discount=DISCOUNT, extra=[WeightedTerm(Bonus(), 10.0)])
    with pytest.raises(ConfigError, match="governor: each name"):
        build_rubric(RewardConfig(), discount=DISCOUNT, extra=[WeightedTerm(GovernorPenalty(), 0.1)])


def test_the_name_of_a_built_in_term_of_another_mode_is_taken_too() -> None:
    with pytest.raises(ConfigError, match="intervention: each name may occur once, and built-in terms have"):
        build_rubric(RewardConfig(), discount=DISCOUNT, extra=[WeightedTerm(Intervention(), 0.1)])


def test_minimal_is_sparse_and_a_price_for_young_culls() -> None:
    episode = play(grow("good"))
    assert sum_up(pay(episode, "minimal")) == sum_up(pay(episode, "sparse"))
    assert math.isclose(sum_shares(pay(episode, "minimal"), "young_cull"), 0.0)
