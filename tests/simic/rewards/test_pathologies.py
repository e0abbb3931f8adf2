"""Ways to be paid for nothing that were seen in practice: in every mode honesty pays more.

Returns are discounted, as a learner sees them; hosts are scripted, so what a policy deserves is known.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import WAIT, Action, ConfigError, LifecycleOp, Observation, SeedStage, SlotReport
from esper.simic.rewards.config import REWARD_MODES, RewardConfig
from esper.simic.rewards.modes import build_rubric
from simic.rewards.scripted_host import (
    DISCOUNT,
    HOST_PARAMS,
    Gardener,
    ScriptedHost,
    cull,
    cull_in_incubation,
    earn,
    grow,
    hold,
    keep,
    never,
    pay,
    play,
    sum_shares,
    sum_up,
)

MODES = pytest.mark.parametrize("mode", REWARD_MODES)
RENTS = {
    "gain": "parameter_rent",
    "sparse": "final_parameter_rent",
    "minimal": "final_parameter_rent",
    "shaped": "parameter_rent",
    "loss": "rent_after_grace",
}


def retarget(report: SlotReport) -> Action:
    return Action(op=LifecycleOp.SET_ALPHA, slot=report.slot, alpha_target=1.0)


def hold_and_keep_late(report: SlotReport) -> Action:
    return keep(report) if report.epochs_in_stage >= 10 else WAIT


@MODES
def test_pathology_01_waiting_in_probation_earns_less_than_keeping(mode: str) -> None:
    honest = earn(grow("good"), mode)
    assert honest > earn(Gardener([("a", "good")], hold), mode)
    # Keeping late leads to the same network; it may not pay better than keeping at once.
    assert honest >= earn(Gardener([("a", "good")], hold_and_keep_late), mode) - 1e-12


@MODES
def test_pathology_02_boasted_contributions_pay_nothing_and_returns_stay_small(mode: str) -> None:
    boaster = play(grow("boaster"))
    assert boaster[-1].after.slots[0].stage is SeedStage.FOSSILIZED
    assert earn(never, mode) > sum_up(pay(boaster, mode))
    for policy in (grow("boaster"), grow("good", "better"), Gardener([("a", "boaster")], hold), grow("bomb")):
        rewards = pay(play(policy), mode)
        assert max(abs(reward.total) for reward in rewards) < 1.0
        assert abs(sum_up(rewards)) < 1.0


def test_pathology_02_a_weight_of_3_on_contributions_is_refused_and_scaled_down_it_stays_bounded() -> None:
    heavy = RewardConfig(mode="shaped", contribution_weight=3.0)
    with pytest.raises(ConfigError, match=r"could reach 1\.53 in one step, .*lower reward\.scale to 0\.0328"):
        build_rubric(heavy, discount=DISCOUNT)
    scaled = replace(heavy, scale=0.0325)
    boaster = pay(play(grow("boaster")), "shaped", scaled)
    assert max(abs(reward.total) for reward in boaster) < 1.0
    assert sum_up(boaster) < sum_up(pay(play(never), "shaped", scaled))


@MODES
def test_pathology_03_sitting_on_a_fossil_earns_less_than_growing_on(mode: str) -> None:
    assert earn(grow("good", "better"), mode) > earn(grow("good"), mode)


@MODES
def test_pathology_03_no_step_pays_for_a_fossil_that_merely_stays(mode: str) -> None:
    episode = play(grow("good"))
    kept = next(i for i, facts in enumerate(episode) if facts.after.slots[0].stage is SeedStage.FOSSILIZED)
    paid, alone = pay(episode, mode), pay(play(never), mode)
    staying = range(kept + 1, len(episode) - 1)
    assert len(staying) > 10
    # Up to the end, where the network that leaves is judged once, a fossil costs compute and earns nothing.
    assert all(paid[i].total <= alone[i].total for i in staying)
    if mode == "gain":
        assert sum_up(paid[kept + 1 :]) < 0.0
        assert sum_shares(paid[: kept + 1], "metric_lead") == pytest.approx(0.06)
        assert sum_shares(paid[kept + 1 :], "metric_lead") == pytest.approx(0.0, abs=1e-12)


def test_pathology_03_a_fossil_is_paid_for_once() -> None:
    episode = play(grow("good"))
    rewards = pay(episode, "shaped")
    kept = next(i for i, facts in enumerate(episode) if facts.after.slots[0].stage is SeedStage.FOSSILIZED)
    assert sum_shares(rewards[:kept], "contribution") > 0.0
    assert sum_shares(rewards[kept:], "contribution") == pytest.approx(0.0, abs=1e-12)


@MODES
@pytest.mark.parametrize("blueprint", ["ransom", "ransom_harmful"])
def test_pathology_04_making_the_host_depend_on_a_seed_earns_nothing(mode: str, blueprint: str) -> None:
    kept = play(grow(blueprint))
    assert kept[-1].after.slots[0].stage is SeedStage.FOSSILIZED
    measured = kept[-1].after.slots[0]
    assert measured.contribution is not None
    # Its contribution exceeds that of a useful seed, and the host's own progress passes for credit.
    assert measured.contribution.mean > 0.06
    assert measured.credit is not None
    assert measured.credit > 0.0
    honest = earn(never, mode)
    assert honest > sum_up(pay(kept, mode))
    assert honest > earn(Gardener([("a", blueprint)], hold), mode)
    assert earn(grow("good"), mode) > sum_up(pay(kept, mode))


@MODES
def test_pathology_05_retargeting_alpha_dodges_nothing(mode: str) -> None:
    dodging = play(Gardener([("a", "good")], retarget))
    assert sum(facts.result.effective.op is LifecycleOp.SET_ALPHA for facts in dodging) > 10
    assert earn(grow("good"), mode) > sum_up(pay(dodging, mode))
    assert sum_up(pay(dodging, mode)) <= earn(Gardener([("a", "good")], hold), mode)


@MODES
@pytest.mark.parametrize("blueprint", ["null", "harmful", "ransom", "good"])
def test_pathology_06_cycles_of_germinating_and_culling_earn_less_than_nothing_grown(
    mode: str, blueprint: str
) -> None:
    cycling = play(Gardener([("a", blueprint), ("b", blueprint)], cull, is_repeating=True))
    assert sum(facts.result.effective.op is LifecycleOp.CULL for facts in cycling) >= 3
    honest = grow("good") if blueprint == "good" else never
    assert earn(honest, mode) > sum_up(pay(cycling, mode))


@MODES
def test_pathology_07_keeping_a_seed_is_paid_when_it_is_done_not_to_whoever_acts_last(mode: str) -> None:
    def begin() -> ScriptedHost:
        host, gardener = ScriptedHost(), Gardener([("a", "good")], hold)
        while host.observe().slots[0].fossilize_refusal is not None:
            host.step(gardener(host.observe()))
        return host

    kept, waited = begin(), begin()
    keeping = pay([kept.step(keep(kept.observe().slots[0]))], mode)[0].total
    waiting = pay([waited.step(WAIT)], mode)[0].total
    assert keeping >= waiting
    assert earn(grow("good"), mode) > earn(Gardener([("a", "good")], hold), mode)
    # The last operation earns nothing by being the last one: it is refused, and waiting pays the same.
    last = play(grow("good"))[-1]
    asked = Action(op=LifecycleOp.GERMINATE, slot="b", blueprint="null")
    refused = replace(last, result=replace(last.result, requested=asked, refusal="too late"))
    assert pay([refused], mode) == pay([last], mode)


@MODES
def test_pathology_08_waiting_pays_the_same_whatever_slot_was_drawn_with_it(mode: str) -> None:
    for facts in play(grow("good", "harmful")):
        if facts.result.effective.op is not LifecycleOp.WAIT:
            continue
        paid = [
            pay([replace(facts, result=replace(facts.result, requested=drawn, effective=drawn))], mode)
            for drawn in (Action(slot="a"), Action(slot="b", blueprint="good"), WAIT)
        ]
        assert paid[0] == paid[1] == paid[2]

    def wait_pointing(observation: Observation) -> Action:
        return Action(slot="a" if observation.signals.epoch % 2 else "b")

    assert earn(wait_pointing, mode) == earn(never, mode)
    assert earn(grow("good"), mode) > earn(wait_pointing, mode)


@MODES
def test_pathology_09_the_parameters_of_a_fossil_are_charged_once(mode: str) -> None:
    early, late = grow("good"), Gardener([("a", "good")], hold_and_keep_late)
    if mode in RENTS:
        bill = -RewardConfig().scale * RewardConfig().lambda_p * math.log(1.0 + 100 / HOST_PARAMS)
        for policy in (early, late):
            assert sum_shares(pay(play(policy), mode), RENTS[mode]) == pytest.approx(bill, abs=1e-12)
    else:
        names = build_rubric(RewardConfig(mode=mode), discount=DISCOUNT).names
        assert not any("rent" in name for name in names)
    assert earn(grow("good"), mode) > earn(never, mode)


@MODES
def test_pathology_10_a_cadence_of_culls_earns_less_than_leaving_slots_alone(mode: str) -> None:
    cadence = play(cull_in_incubation)
    assert sum(facts.result.effective.op is LifecycleOp.CULL for facts in cadence) >= 5
    assert earn(never, mode) > sum_up(pay(cadence, mode))
    cut_short = Gardener([("a", "good"), ("b", "good")], cull, is_repeating=True)
    assert earn(grow("good", "good"), mode) > earn(cut_short, mode)


@MODES
@pytest.mark.parametrize("horizon", [23, 24])
def test_pathology_10_going_up_and_down_is_no_drip(mode: str, horizon: int) -> None:
    def play_for(policy: Gardener) -> float:
        return sum_up(pay(play(policy, ScriptedHost(horizon=horizon)), mode))

    swinging = play_for(Gardener([("a", "swinging")], hold))
    assert sum_up(pay(play(never, ScriptedHost(horizon=horizon)), mode)) > swinging
    assert play_for(grow("good")) > swinging


@MODES
def test_pathology_10_breaking_the_host_is_no_way_out_and_spares_no_loss(mode: str) -> None:
    assert earn(never, mode) > earn(grow("bomb"), mode)
    assert earn(grow("good"), mode) > earn(Gardener([("a", "good"), ("b", "bomb")], keep), mode)
    # In trouble already: removing the harmful seed beats blowing up, and so does even leaving it.
    escape = play(Gardener([("a", "harmful"), ("b", "bomb")], hold))
    assert escape[-1].is_failure
    rewards = pay(escape, mode)
    assert earn(Gardener([("a", "harmful")], cull), mode) > sum_up(rewards)
    assert earn(Gardener([("a", "harmful")], hold), mode) > sum_up(rewards)
    # What was lost before the failure is neither wiped out nor paid back by it.
    before = pay(play(Gardener([("a", "harmful"), ("b", "bomb")], hold))[:-1], mode)
    assert rewards[:-1] == before
    assert rewards[-1].total < 0.0


def test_an_early_lead_is_worth_no_more_than_the_discount_on_it() -> None:
    # With a discount below 1 a lead that is lost again leaves a little behind; never what keeping it would.
    lost = earn(Gardener([("a", "good")], hold), "gain")
    assert 0.0 < lost < (1.0 - DISCOUNT**24) * 0.06
