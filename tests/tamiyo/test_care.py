from __future__ import annotations

import math
from dataclasses import replace

import pytest

from builders import make_budgets, make_estimate, make_observation, make_report
from esper.leyline import Action, Decision, Estimate, LifecycleOp, SeedStage, SlotReport, refuse_action
from esper.tamiyo import HeuristicConfig
from esper.tamiyo.care import (
    decide_advance,
    decide_cull,
    decide_fossilize,
    decide_open_fully,
    find_fault,
)

CONFIG = HeuristicConfig()
HARMFUL = make_estimate(-0.02, 0.005)
USEFUL = make_estimate(0.02, 0.005)


def cull(report: SlotReport, config: HeuristicConfig = CONFIG) -> Decision | None:
    return decide_cull(make_observation(report), config)


def reason_to_cull(report: SlotReport, config: HeuristicConfig = CONFIG) -> str | None:
    fault = find_fault(report, make_observation(report), config)
    return None if fault is None else fault.reason


def test_a_seed_that_passes_its_gates_is_kept_with_its_numbers() -> None:
    waiting = make_report("a", SeedStage.PROBATIONARY)
    ready = make_report("b", SeedStage.PROBATIONARY, contribution=USEFUL, credit=0.01, can_fossilize=True)
    decision = decide_fossilize(make_observation(waiting, ready), CONFIG)
    assert decision is not None
    assert decision.action == Action(op=LifecycleOp.FOSSILIZE, slot="b")
    assert decision.reason == "keep b#1 (conv_light): contribution 0.02 +- 0.005, credit 0.01"
    assert decision.confidence == pytest.approx(0.4)
    assert decide_fossilize(make_observation(waiting), CONFIG) is None


@pytest.mark.parametrize("stage", [SeedStage.BLENDING, SeedStage.PROBATIONARY])
def test_a_harmful_seed_is_culled(stage: SeedStage) -> None:
    decision = cull(make_report("a", stage, contribution=HARMFUL))
    assert decision is not None
    assert decision.action.op is LifecycleOp.CULL
    assert decision.action.slot == "a"
    assert decision.action.tempo_epochs == CONFIG.cull_tempo_epochs
    assert "contribution -0.02 +- 0.005 is below 0 by more than 1 s.e." in decision.reason
    assert decision.confidence == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("estimate", "age", "epochs"),
    [
        (make_estimate(-0.004, 0.005), 0, 4),  # within its error
        (make_estimate(math.nan), 0, 4),
        (HARMFUL, 4, 4),  # measured before the stage was entered
        (HARMFUL, 0, 1),  # too young in the stage
        (None, 0, 4),
    ],
)
def test_weak_old_or_missing_evidence_does_not_cull(estimate: Estimate | None, age: int, epochs: int) -> None:
    report = make_report(
        "a",
        SeedStage.PROBATIONARY,
        contribution=estimate,
        contribution_age_epochs=age,
        epochs_in_stage=epochs,
    )
    assert cull(report) is None


def test_a_needed_seed_without_credit_is_culled() -> None:
    seed = make_report("a", SeedStage.PROBATIONARY, contribution=USEFUL, credit=-0.003)
    assert reason_to_cull(seed) == "removing it costs 0.02 +- 0.005, yet its credit is -0.003"


@pytest.mark.parametrize(
    ("mean", "error", "credit"),
    [(0.02, 0.005, 0.004), (0.02, 0.03, -0.003), (0.0009, 0.0001, -0.003), (0.02, 0.005, None)],
)
def test_credit_doubt_or_smallness_saves_a_needed_seed(
    mean: float, error: float, credit: float | None
) -> None:
    seed = make_report("a", SeedStage.BLENDING, contribution=make_estimate(mean, error), credit=credit)
    assert reason_to_cull(seed) is None


def test_probation_ends_with_the_reason_of_the_gate() -> None:
    seed = make_report("a", SeedStage.PROBATIONARY, epochs_in_stage=10, contribution=make_estimate(0.0))
    reason = reason_to_cull(seed)
    assert reason is not None
    assert reason.startswith("on probation for 10 epochs, at most 10, contribution 0 +- 0.001: G?")
    assert reason_to_cull(replace(seed, epochs_in_stage=9)) is None
    assert reason_to_cull(replace(seed, stage=SeedStage.BLENDING)) is None


def test_an_incubating_seed_that_would_harm_is_culled_after_patience() -> None:
    seed = make_report("a", SeedStage.TRAINING, epochs_in_stage=3, shadow_gain=HARMFUL)
    assert reason_to_cull(seed) == "after 3 epochs of incubation its shadow gain is -0.02 +- 0.005"
    assert reason_to_cull(replace(seed, epochs_in_stage=2)) is None
    assert reason_to_cull(replace(seed, shadow_gain=make_estimate(-0.0005))) is None
    assert reason_to_cull(replace(seed, shadow_gain_age_epochs=3)) is None


def test_incubation_ends_only_where_the_gate_still_refuses() -> None:
    seed = make_report("a", SeedStage.TRAINING, epochs_in_stage=10)
    reason = reason_to_cull(seed)
    assert reason is not None
    assert reason.startswith("incubated for 10 epochs, at most 10, and still G?")
    assert reason_to_cull(replace(seed, advance_refusal=None)) is None
    assert reason_to_cull(replace(seed, epochs_in_stage=9)) is None


@pytest.mark.parametrize("stage", [stage for stage in SeedStage if stage.is_live])
def test_faulty_gradients_condemn_a_live_seed(stage: SeedStage) -> None:
    assert reason_to_cull(make_report("a", stage, is_healthy=False)) is not None
    assert reason_to_cull(make_report("a", stage)) is None


def test_fossils_and_empty_slots_have_no_fault() -> None:
    fossil = make_report("a", SeedStage.FOSSILIZED, is_healthy=False, contribution=HARMFUL)
    assert reason_to_cull(fossil) is None
    assert reason_to_cull(make_report("a")) is None


def test_a_seed_too_young_to_be_culled_is_passed_over() -> None:
    young = make_report("a", SeedStage.BLENDING, is_healthy=False, seed_age_epochs=1)
    other = make_report("b", SeedStage.BLENDING, is_healthy=False)
    assert decide_cull(make_observation(young), CONFIG) is None
    decision = decide_cull(make_observation(young, other), CONFIG)
    assert decision is not None
    assert decision.action.slot == "b"


def test_an_incubated_seed_advances_after_the_configured_time() -> None:
    seed = make_report("a", SeedStage.TRAINING, epochs_in_stage=3, shadow_gain=USEFUL, can_advance=True)
    decision = decide_advance(make_observation(seed), CONFIG)
    assert decision is not None
    assert decision.action == Action(op=LifecycleOp.ADVANCE, slot="a")
    assert "after 3 epochs in TRAINING: shadow gain 0.02 +- 0.005" in decision.reason
    young = replace(seed, epochs_in_stage=2)
    assert decide_advance(make_observation(young), CONFIG) is None
    refused = replace(seed, advance_refusal="G2: no")
    assert decide_advance(make_observation(refused), CONFIG) is None


@pytest.mark.parametrize("stage", [SeedStage.GERMINATED, SeedStage.BLENDING])
def test_other_stages_advance_as_soon_as_their_gate_passes(stage: SeedStage) -> None:
    seed = make_report("a", stage, epochs_in_stage=0, can_advance=True)
    decision = decide_advance(make_observation(seed), CONFIG)
    assert decision is not None
    assert decision.action.op is LifecycleOp.ADVANCE


def test_a_seed_that_rests_below_one_is_opened_fully() -> None:
    seed = make_report("a", SeedStage.BLENDING, alpha=0.5, alpha_target=0.5)
    decision = decide_open_fully(make_observation(seed), CONFIG)
    assert decision is not None
    assert decision.action.op is LifecycleOp.SET_ALPHA
    assert decision.action.alpha_target == 1.0
    assert "rests at 0.500" in decision.reason
    assert decide_open_fully(make_observation(replace(seed, is_ramping=True)), CONFIG) is None
    assert decide_open_fully(make_observation(replace(seed, alpha_target=1.0)), CONFIG) is None
    assert decide_open_fully(make_observation(replace(seed, stage=SeedStage.TRAINING)), CONFIG) is None


def test_every_answer_is_legal() -> None:
    reports = (
        make_report("a", SeedStage.PROBATIONARY, can_fossilize=True),
        make_report("b", SeedStage.TRAINING, shadow_gain=HARMFUL, can_advance=True),
        make_report("c", SeedStage.BLENDING, alpha_target=0.5, can_advance=True),
    )
    observation = make_observation(*reports, budgets=make_budgets(min_cull_age_epochs=3))
    for rule in (decide_fossilize, decide_cull, decide_advance, decide_open_fully):
        decision = rule(observation, CONFIG)
        assert decision is not None
        assert refuse_action(decision.action, observation) is None
