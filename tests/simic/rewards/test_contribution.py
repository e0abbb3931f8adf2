"""What seeds are believed to be worth: doubted, capped by credit and lead, paid once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from builders import make_estimate, make_observation, make_report
from esper.leyline import Estimate, LifecycleOp, Observation, SeedStage
from esper.simic.rewards.contribution import Contribution
from esper.simic.rewards.rubric import TermMemory
from simic.rewards.fact_strategies import make_facts

LEAD = 0.3
"""The observations below have metric 0.8; the never-grown host is this much behind."""


def observe(
    stage: SeedStage,
    mean: float | None = None,
    *,
    error: float = 0.0,
    credit: float | None = 1.0,
    is_cull_pending: bool = False,
    seed_id: str = "block1#1",
) -> Observation:
    """One slot in a stage, with the contribution `mean` of its seed."""
    contribution = None if mean is None else Estimate(mean=mean, standard_error=error, num_items=360)
    return make_observation(
        make_report(
            "block1",
            stage,
            contribution=contribution,
            credit=credit,
            is_cull_pending=is_cull_pending,
            seed_id=seed_id,
        )
    )


def run(
    *path: Observation, lead: float = LEAD, is_failure: bool = False, bound: float = 2.0, errors: float = 1.0
) -> list[float]:
    """Return what each observation pays; the last one is that of a failure where `is_failure`."""
    term, memory = Contribution(bound, errors), TermMemory()
    return [
        term.compute(
            make_facts(state, state, never=(0.0, 0.8 - lead), is_failure=is_failure and state is path[-1]),
            memory,
        )
        for state in path
    ]


PROBATION = SeedStage.PROBATIONARY


def test_contribution_pays_the_lower_bound_in_scales_and_nothing_for_holding_it() -> None:
    state = observe(PROBATION, 0.03, error=0.01)
    assert run(state, state, state) == pytest.approx([0.02 / 0.05, 0.0, 0.0])
    assert run(state, errors=2.0) == pytest.approx([0.01 / 0.05])
    assert run(state, errors=4.0) == [0.0]


def test_contribution_is_capped_by_credit_so_that_dependence_earns_nothing() -> None:
    assert run(observe(PROBATION, 0.09, credit=0.02)) == pytest.approx([0.02 / 0.05])
    assert run(observe(PROBATION, 0.09, credit=-0.02)) == [0.0]
    assert run(observe(PROBATION, 0.09, credit=None)) == [0.0]
    assert run(observe(PROBATION, 0.09, credit=math.nan)) == [0.0]


def test_contribution_is_capped_by_the_lead_of_the_whole_network() -> None:
    state = observe(PROBATION, 0.09)
    assert run(state, lead=0.04) == pytest.approx([0.04 / 0.05])
    assert run(state, lead=-0.04) == [0.0]
    assert run(state, lead=math.nan) == [0.0]


def test_contribution_of_a_harmful_seed_is_charged_and_given_back_at_its_removal() -> None:
    harmful = observe(PROBATION, -0.04, error=0.01)
    assert run(harmful, observe(SeedStage.CULLED)) == pytest.approx([-0.03 / 0.05, 0.03 / 0.05])
    assert run(observe(PROBATION, -0.04, error=0.05)) == [0.0]


def test_a_cull_of_a_helpful_seed_gives_back_what_was_paid_at_its_acceptance() -> None:
    helpful = observe(PROBATION, 0.04)
    leaving = observe(PROBATION, 0.04, is_cull_pending=True)
    assert run(helpful, leaving, observe(SeedStage.CULLED)) == pytest.approx([0.8, -0.8, 0.0])
    harmful = observe(PROBATION, -0.04, is_cull_pending=True)
    assert run(harmful, observe(SeedStage.CULLED)) == pytest.approx([-0.8, 0.8])


def test_a_fossil_keeps_the_worth_it_had_and_earns_nothing_more() -> None:
    kept = observe(SeedStage.FOSSILIZED, 0.09)
    assert run(observe(PROBATION, 0.04), kept, kept) == pytest.approx([0.8, 0.0, 0.0])


def test_a_stage_that_is_not_measured_yet_keeps_the_worth_of_the_last_one() -> None:
    path = [observe(SeedStage.BLENDING, 0.04), observe(PROBATION), observe(PROBATION, 0.05)]
    assert run(*path) == pytest.approx([0.8, 0.0, 0.2])


def test_another_seed_in_the_slot_inherits_nothing() -> None:
    path = [observe(PROBATION, 0.04), observe(PROBATION, None, seed_id="block1#2")]
    assert run(*path) == pytest.approx([0.8, -0.8])


def test_seeds_that_do_not_affect_the_output_are_not_judged() -> None:
    assert run(observe(SeedStage.TRAINING, 0.04), observe(SeedStage.GERMINATED, -0.04)) == [0.0, 0.0]


@pytest.mark.parametrize("mean", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_not_finite_says_nothing(mean: float) -> None:
    assert run(observe(PROBATION, mean)) == [0.0]


def test_all_seeds_together_stay_within_the_bound() -> None:
    reports = [
        make_report(name, PROBATION, contribution=make_estimate(5.0), credit=5.0) for name in ("a", "b", "c")
    ]
    assert run(make_observation(*reports), lead=50.0) == [2.0]
    harmful = [make_report(name, PROBATION, contribution=make_estimate(-5.0)) for name in ("a", "b", "c")]
    assert run(make_observation(*harmful)) == [-2.0]


def test_a_failure_takes_back_what_was_paid_and_forgives_no_harm() -> None:
    helpful, harmful = observe(PROBATION, 0.04), observe(PROBATION, -0.04)
    assert run(helpful, replace(helpful), is_failure=True) == pytest.approx([0.8, -0.8])
    assert run(harmful, observe(SeedStage.CULLED), is_failure=True) == pytest.approx([-0.8, 0.0])


def test_what_a_cull_pays_is_never_a_bonus() -> None:
    for mean in (-0.09, -0.01, 0.0, 0.01, 0.09):
        before = observe(PROBATION, mean)
        after = observe(SeedStage.CULLED)
        term, memory = Contribution(2.0, 1.0), TermMemory()
        first = term.compute(make_facts(before, before, never=(0.0, 0.5)), memory)
        second = term.compute(
            make_facts(before, after, op=LifecycleOp.CULL, slot="block1", never=(0.0, 0.5)), memory
        )
        assert first + second == pytest.approx(0.0, abs=1e-12)
