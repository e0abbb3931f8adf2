"""Prices: when they are due, and that no operation turns one into a bonus."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from builders import make_observation, make_report
from esper.leyline import WAIT, Action, ActionResult, LifecycleOp, Observation, SeedStage
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.costs import GovernorPenalty, Indecision, Intervention, YoungCull
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.modes import build_terms
from simic.rewards.fact_strategies import make_facts, wild_facts

PENALTIES = ("governor", "intervention", "young_cull", "indecision")
EMPTY = make_observation()


def test_governor_charges_a_failed_host_and_no_other() -> None:
    assert GovernorPenalty().compute(make_facts(EMPTY, EMPTY, is_failure=True), {}) == -1.0
    assert GovernorPenalty().compute(make_facts(EMPTY, EMPTY), {}) == 0.0


@pytest.mark.parametrize("op", LifecycleOp)
def test_intervention_charges_each_operation_but_waiting_and_keeping(op: LifecycleOp) -> None:
    expected = 0.0 if op in (LifecycleOp.WAIT, LifecycleOp.FOSSILIZE) else -1.0
    assert Intervention().compute(make_facts(EMPTY, EMPTY, op=op, slot="block1"), {}) == expected


def test_intervention_is_free_for_an_operation_that_was_refused() -> None:
    asked = Action(op=LifecycleOp.CULL, slot="block1")
    facts = make_facts(EMPTY, EMPTY)
    refused = replace(facts, result=ActionResult(requested=asked, effective=WAIT, refusal="no seed"))
    assert Intervention().compute(refused, {}) == 0.0
    assert YoungCull(5).compute(refused, {}) == 0.0


@pytest.mark.parametrize(("age", "expected"), [(0, -1.0), (4, -1.0), (5, 0.0), (9, 0.0)])
def test_young_cull_charges_by_the_age_at_the_decision(age: int, expected: float) -> None:
    before = make_observation(
        make_report("block1", SeedStage.TRAINING, seed_age_epochs=age),
        make_report("block2", SeedStage.TRAINING, seed_age_epochs=1),
    )
    facts = make_facts(before, EMPTY, op=LifecycleOp.CULL, slot="block1")
    assert YoungCull(5).compute(facts, {}) == expected


def test_young_cull_is_about_the_policys_culls_only() -> None:
    before = make_observation(make_report("block1", SeedStage.TRAINING, seed_age_epochs=1))
    after = make_observation(make_report("block1", SeedStage.CULLED))
    assert YoungCull(5).compute(make_facts(before, after, is_last=True), {}) == 0.0
    assert YoungCull(5).compute(make_facts(before, after, op=LifecycleOp.CULL, slot="elsewhere"), {}) == 0.0


def wait_in_probation(
    epochs: int, *, stage: SeedStage = SeedStage.PROBATIONARY, can_fossilize: bool = True
) -> Observation:
    return make_observation(
        make_report("block1", stage, epochs_in_stage=epochs, can_fossilize=can_fossilize),
        make_report("block2"),
    )


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, 0.0), (2, 0.0), (3, -0.1), (4, -0.2), (7, -0.5), (12, -1.0), (10**6, -1.0)]
)
def test_indecision_rises_linearly_and_is_capped(epochs: int, expected: float) -> None:
    facts = make_facts(wait_in_probation(epochs - 1), wait_in_probation(epochs))
    assert Indecision(2).compute(facts, {}) == pytest.approx(expected)


@pytest.mark.parametrize("op", [LifecycleOp.WAIT, LifecycleOp.SET_ALPHA, LifecycleOp.GERMINATE])
def test_indecision_is_dodged_by_no_other_operation(op: LifecycleOp) -> None:
    slot = "block2" if op is LifecycleOp.GERMINATE else "block1"
    facts = make_facts(wait_in_probation(6), wait_in_probation(7), op=op, slot=slot)
    assert Indecision(2).compute(facts, {}) == pytest.approx(-0.5)


def test_indecision_is_not_charged_while_the_gates_refuse_or_once_it_is_decided() -> None:
    waiting = wait_in_probation(7)
    refused = wait_in_probation(6, can_fossilize=False)
    leaving = make_observation(
        make_report("block1", SeedStage.PROBATIONARY, epochs_in_stage=7, is_cull_pending=True)
    )
    assert Indecision(2).compute(make_facts(refused, waiting), {}) == 0.0
    assert Indecision(2).compute(make_facts(wait_in_probation(6), leaving), {}) == 0.0
    for stage in (SeedStage.FOSSILIZED, SeedStage.CULLED):
        after = wait_in_probation(0, stage=stage)
        assert Indecision(2).compute(make_facts(wait_in_probation(6), after), {}) == 0.0


@settings(max_examples=40)
@given(facts=wild_facts())
def test_bug10_no_penalty_is_a_bonus_under_any_operation(facts: StepFacts) -> None:
    terms = build_terms(RewardConfig(), discount=0.995)
    for op in LifecycleOp:
        action = Action(op=op, slot="a")
        same = replace(facts, result=ActionResult(requested=action, effective=action))
        for name in PENALTIES:
            assert terms[name].term.spec.high == 0.0
            assert -1.0 <= terms[name].term.compute(same, {}) <= 0.0
