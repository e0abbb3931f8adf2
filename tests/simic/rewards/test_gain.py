"""The objective of an episode and the terms that pay it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from esper.leyline import SeedStage
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.gain import FlopsRent, MetricLead, ParameterRent, compute_objective
from esper.simic.rewards.levels import ChangeOf, Side
from esper.simic.rewards.rubric import TermMemory
from simic.rewards.fact_strategies import scripted_episodes
from simic.rewards.scripted_host import (
    HORIZON,
    HOST_PARAMS,
    compute_never_metric,
    grow,
    never,
    pay,
    play,
    sum_shares,
    sum_up,
)

WIDE = RewardConfig(lead_bound=1000.0, rent_bound=1000.0, scale=1e-4, lambda_p=0.3, lambda_f=0.7)
"""Bounds that nothing reaches."""


@settings(max_examples=40)
@given(episode=scripted_episodes(with_bombs=False))
def test_the_undiscounted_return_of_gain_is_the_objective_less_the_never_grown_one(
    episode: list[StepFacts],
) -> None:
    last = episode[-1]
    earned = sum_up(pay(episode, "gain", WIDE), discount=1.0)
    # Never growing adds no parameters and spends its own bill: its objective is its last metric.
    objective = compute_objective(last.after, WIDE.lambda_p, WIDE.lambda_f) - last.never_metric_after
    assert earned / WIDE.scale * last.after.metric.scale == pytest.approx(objective, abs=1e-9)


@settings(max_examples=40)
@given(episode=scripted_episodes())
def test_gain_and_sparse_pay_the_same_sum_in_every_episode(episode: list[StepFacts]) -> None:
    on_the_way, at_the_end = pay(episode, "gain"), pay(episode, "sparse")
    assert sum_up(on_the_way, discount=1.0) == pytest.approx(sum_up(at_the_end, discount=1.0), abs=1e-9)


def test_the_objective_by_hand() -> None:
    after = play(grow("good"))[-1].after
    budgets = replace(after.budgets, added_params=HOST_PARAMS, flops_spent=3 * after.budgets.never_grow_flops)
    observation = replace(after, budgets=budgets)
    # 0.05 is the scale of the metric; parameters doubled, FLOPs tripled.
    expected = after.signals.metric - 0.05 * (0.4 * math.log(2.0) + 0.3 * 2.0)
    assert compute_objective(observation, 0.4, 0.3) == pytest.approx(expected, abs=1e-12)


def test_metric_lead_is_the_difference_to_the_never_grown_host_in_scales() -> None:
    facts = play(grow("good"))[-1]
    side = Side(facts.after, compute_never_metric(HORIZON), True)
    assert MetricLead(7.0).compute_level(side) == pytest.approx(0.06 / 0.05)
    assert MetricLead(0.5).compute_level(side) == 0.5


def test_metric_lead_at_the_start_is_nothing_because_both_metrics_count_as_nothing() -> None:
    first = play(grow("good"))[0]
    assert MetricLead(7.0).compute_level(Side(first.before, 123.0, False)) == 0.0


def test_metric_lead_that_is_no_number_is_the_lowest() -> None:
    facts = play(never)[0]
    assert MetricLead(7.0).compute_level(Side(facts.after, math.nan, False)) == -7.0


def test_final_metric_lead_is_the_lead_of_the_network_that_leaves() -> None:
    assert sum_shares(pay(play(grow("good")), "sparse"), "final_metric_lead") == pytest.approx(0.05 * 1.2)


def test_parameter_rent_charges_each_parameter_once_and_refunds_a_cull() -> None:
    episode = play(grow("good", "better"))
    memory: TermMemory = {}
    term = ChangeOf(ParameterRent(0.3, 10.0))
    total = 0.0
    for facts in episode:
        total += term.compute(facts, memory)
        growth = facts.after.budgets.added_params / HOST_PARAMS
        assert total == pytest.approx(-0.3 * math.log(1.0 + growth), abs=1e-12)
    assert growth == 0.2


def test_final_parameter_rent_charges_what_was_kept() -> None:
    rewards = pay(play(grow("good")), "sparse")
    assert sum_shares(rewards, "final_parameter_rent") == pytest.approx(-0.05 * 0.05 * math.log(1.1))
    assert sum_shares(pay(play(grow("null")), "sparse"), "final_parameter_rent") == 0.0


def test_rent_after_grace_leaves_young_seeds_free_until_the_end() -> None:
    rent = ParameterRent(1.0, 10.0, grace_epochs=3)
    assert rent.spec.name == "rent_after_grace"
    third, fourth = (facts.after for facts in play(grow("good"))[2:4])
    assert (third.slots[0].seed_age_epochs, fourth.slots[0].seed_age_epochs) == (3, 4)
    assert rent.compute_level(Side(third, 0.0, False)) == 0.0
    assert rent.compute_level(Side(fourth, 0.0, False)) == pytest.approx(-math.log(1.1))
    assert rent.compute_level(Side(third, 0.0, True)) == pytest.approx(-math.log(1.1))


def test_rent_stops_at_its_bound() -> None:
    facts = play(never)[0]
    huge = replace(
        facts.after, budgets=replace(facts.after.budgets, added_params=10**400, flops_spent=10**400)
    )
    assert ParameterRent(0.1, 0.5).compute_level(Side(huge, 0.0, False)) == -0.5
    assert FlopsRent(0.1, 0.5).compute_level(Side(huge, 0.0, False)) == -0.5


def test_flops_rent_is_free_for_what_the_host_alone_would_have_spent() -> None:
    assert sum_shares(pay(play(never), "gain"), "flops_rent") == pytest.approx(0.0, abs=1e-15)


def test_flops_rent_keeps_charging_for_a_seed_that_was_culled() -> None:
    episode = play(grow("null"))
    assert episode[-1].after.slots[0].stage is SeedStage.CULLED
    spent = episode[-1].after.budgets.flops_spent / episode[-1].after.budgets.never_grow_flops
    assert spent == pytest.approx(1.1)  # a seed of a tenth of the host, trained in all 24 intervals
    paid = sum_shares(pay(episode, "gain"), "flops_rent")
    assert paid == pytest.approx(-0.05 * 0.05 * 0.1)


def test_final_flops_rent_is_the_same_bill_at_the_end() -> None:
    rewards = pay(play(grow("null")), "sparse")
    assert sum_shares(rewards, "final_flops_rent") == pytest.approx(-0.05 * 0.05 * 0.1)
    assert rewards[-2].terms["final_flops_rent"] == 0.0
