"""Each check of each gate fails alone, with its numbers, and passes otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from esper.kasmina import AlphaRamp, GateConfig, GateResult, QualityGates, SeedState
from esper.leyline import AlphaCurve, Estimate, SeedStage
from kasmina.growing import make_gates

RAMP = AlphaRamp(start_value=0.0, target=1.0, start_batch=0, num_batches=4, curve=AlphaCurve.LINEAR)
S = SeedStage


def _estimate(mean: float, error: float = 0.001) -> Estimate:
    return Estimate(mean=mean, standard_error=error, num_items=360, num_intervals=2)


def _state(**changes: object) -> SeedState:
    """A record that passes every gate of a seed, but for the stage."""
    state = SeedState(
        slot="block1",
        stage=S.PROBATIONARY,
        has_optimizer_entries=True,
        epochs_in_stage=2,
        gradient_ratio=0.5,
        alpha=1.0,
        num_measurements=2,
        metric_now=0.8,
        metric_at_stage_start=0.8,
        contribution=_estimate(0.05),
        contribution_age_epochs=0,
        gate_metric_now=0.8,
        gate_metric_at_blend_start=0.7,
    )
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def _g0(gates: QualityGates, state: SeedState) -> GateResult:
    return gates.check_germination(state, fits=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passing:
    """A gate with what it answers to a record that passes: the names and the numbers that telemetry keeps."""

    check: Callable[[QualityGates, SeedState], GateResult]
    name: str
    stage: SeedStage
    passed: tuple[str, ...]
    measured: Mapping[str, object]


PASSING = (
    _Passing(
        check=_g0, name="G0", stage=S.DORMANT, passed=("slot is dormant", "blueprint fits"), measured={}
    ),
    _Passing(
        check=QualityGates.check_training,
        name="G1",
        stage=S.GERMINATED,
        passed=("stage is GERMINATED", "optimiser entries"),
        measured={},
    ),
    _Passing(
        check=QualityGates.check_blending,
        name="G2",
        stage=S.TRAINING,
        passed=("stage is TRAINING", "incubated", "gradients measured", "gradients finite", "evidence"),
        measured={"gradient_ratio": 0.5},
    ),
    _Passing(
        check=QualityGates.check_probation,
        name="G3",
        stage=S.BLENDING,
        passed=("stage is BLENDING", "full amplitude"),
        measured={"alpha": 1.0},
    ),
    _Passing(
        check=QualityGates.check_stability,
        name="G4",
        stage=S.PROBATIONARY,
        passed=(
            "stage is PROBATIONARY",
            "lasted",
            "measured",
            "no rollback",
            "metric held",
            "full amplitude",
        ),
        measured={"metric_drop": 0.0},
    ),
    _Passing(
        check=QualityGates.check_fossilization,
        name="G5",
        stage=S.PROBATIONARY,
        passed=("fresh", "above its error", "above threshold", "credit", "healthy"),
        measured={
            "contribution": 0.05,
            "lower": pytest.approx(0.0475),
            "credit": 0.05,
        },
    ),
)


@pytest.mark.parametrize("gate", PASSING, ids=lambda gate: gate.name)
def test_gate_passes_with_all_its_checks_and_shows_its_numbers(gate: _Passing) -> None:
    result = gate.check(make_gates(), _state(stage=gate.stage))
    assert (result.gate, result.is_passed, result.reason, result.score) == (gate.name, True, None, 1.0)
    assert (result.passed, result.measured) == (gate.passed, gate.measured)


@pytest.mark.parametrize(
    ("check", "stage", "changes", "failed"),
    [
        (_g0, S.RESETTING, {}, "slot is dormant (RESETTING)"),
        (QualityGates.check_training, S.TRAINING, {}, "stage is GERMINATED (TRAINING)"),
        (
            QualityGates.check_training,
            S.GERMINATED,
            {"has_optimizer_entries": False},
            "optimiser entries (the optimiser does not know the seed)",
        ),
        (QualityGates.check_blending, S.BLENDING, {}, "stage is TRAINING (BLENDING)"),
        (
            QualityGates.check_blending,
            S.TRAINING,
            {"epochs_in_stage": 1},
            "incubated (1 epochs incubated, needs 2)",
        ),
        (
            QualityGates.check_blending,
            S.TRAINING,
            {"has_finite_gradients": False},
            "gradients finite (a gradient was not finite)",
        ),
        (
            QualityGates.check_blending,
            S.TRAINING,
            {"gradient_ratio": 0.049},
            "evidence (shadow gain not measured, gradient ratio 0.049)",
        ),
        (
            QualityGates.check_blending,
            S.TRAINING,
            {"gradient_ratio": None, "shadow_gain": _estimate(0.01)},
            "gradients measured (no gradient was measured yet)",
        ),
        (
            QualityGates.check_blending,
            S.TRAINING,
            {"shadow_gain": _estimate(0.0)},
            "evidence (shadow gain 0, gradient ratio 0.5)",
        ),
        (QualityGates.check_probation, S.PROBATIONARY, {}, "stage is BLENDING (PROBATIONARY)"),
        (
            QualityGates.check_probation,
            S.BLENDING,
            {"alpha": 0.7},
            "full amplitude (alpha 0.700 of 1, at rest)",
        ),
        (
            QualityGates.check_probation,
            S.BLENDING,
            {"ramp": RAMP},
            "full amplitude (alpha 1.000 of 1, ramping)",
        ),
        (QualityGates.check_stability, S.BLENDING, {}, "stage is PROBATIONARY (BLENDING)"),
        (
            QualityGates.check_stability,
            S.PROBATIONARY,
            {"epochs_in_stage": 1},
            "lasted (1 epochs on probation, needs 2)",
        ),
        (
            QualityGates.check_stability,
            S.PROBATIONARY,
            {"num_measurements": 1},
            "measured (1 measurements, needs 2)",
        ),
        (
            QualityGates.check_stability,
            S.PROBATIONARY,
            {"had_governor_event": True},
            "no rollback (a rollback happened on probation)",
        ),
        (
            QualityGates.check_stability,
            S.PROBATIONARY,
            {"metric_now": 0.77},
            "metric held (metric fell by 0.0300, at most 0.0200)",
        ),
        (QualityGates.check_stability, S.PROBATIONARY, {"alpha": 0.5}, "full amplitude (alpha 0.500 of 1)"),
        (QualityGates.check_stability, S.PROBATIONARY, {"ramp": RAMP}, "full amplitude (alpha 1.000 of 1)"),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"contribution_age_epochs": 2},
            "fresh (contribution is 2 epochs old, at most 1)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"contribution_age_epochs": None},
            "fresh (contribution is not measured epochs old, at most 1)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"contribution": _estimate(0.05, 0.06)},
            "above its error (contribution 0.05 less 2.5 s.e. is -0.1)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"contribution": _estimate(0.004)},
            "above threshold (contribution 0.004, needs 0.005)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"gate_metric_now": 0.7},
            "credit (credit 0, needs > 0)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"gate_metric_now": None},
            "credit (credit not measured, needs > 0)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"num_skipped_batches": 3},
            "healthy (3 skipped batches)",
        ),
        (
            QualityGates.check_fossilization,
            S.PROBATIONARY,
            {"has_finite_gradients": False},
            "healthy (0 skipped batches)",
        ),
    ],
)
def test_each_check_fails_alone(
    check: Callable[[QualityGates, SeedState], GateResult],
    stage: SeedStage,
    changes: dict[str, object],
    failed: str,
) -> None:
    result = check(make_gates(), _state(stage=stage, **changes))
    assert result.failed == (failed,)
    assert result.reason == f"{result.gate}: {result.failed[0]}"
    assert 0.0 < result.score < 1.0


# The floats of these records are exact: a bound is met, not passed by a rounding error.
EXACT = GateConfig(min_gradient_ratio=0.25, max_metric_drop=0.25)


@pytest.mark.parametrize(
    ("check", "stage", "changes"),
    [
        (QualityGates.check_blending, S.TRAINING, {"gradient_ratio": 0.25}),
        (QualityGates.check_probation, S.BLENDING, {"alpha": 1.0 - 5e-7}),
        (QualityGates.check_stability, S.PROBATIONARY, {"metric_at_stage_start": 0.75, "metric_now": 0.5}),
        (QualityGates.check_stability, S.PROBATIONARY, {"alpha": 1.0 - 5e-7}),
        (QualityGates.check_fossilization, S.PROBATIONARY, {"contribution_age_epochs": 1}),
        (QualityGates.check_fossilization, S.PROBATIONARY, {"contribution": _estimate(0.125)}),
    ],
)
def test_a_value_at_its_bound_passes(
    check: Callable[[QualityGates, SeedState], GateResult], stage: SeedStage, changes: dict[str, object]
) -> None:
    gates = make_gates(EXACT, keep_threshold=0.125)
    state = _state(stage=stage, **{"contribution": _estimate(0.25), **changes})
    assert check(gates, state).failed == ()


@pytest.mark.parametrize(
    ("check", "stage"),
    [(QualityGates.check_probation, S.BLENDING), (QualityGates.check_stability, S.PROBATIONARY)],
)
def test_an_alpha_beyond_rounding_error_is_not_full_amplitude(
    check: Callable[[QualityGates, SeedState], GateResult], stage: SeedStage
) -> None:
    assert check(make_gates(), _state(stage=stage, alpha=1.0 - 2e-6)).failed[0].startswith("full amplitude")


def test_a_contribution_that_only_equals_its_bound_is_not_above_it() -> None:
    result = make_gates().check_fossilization(_state(contribution=_estimate(0.05, 0.02)))
    assert result.failed == ("above its error (contribution 0.05 less 2.5 s.e. is 0)",)


def test_a_gradient_of_zero_is_no_evidence() -> None:
    result = make_gates().check_blending(_state(stage=S.TRAINING, gradient_ratio=0.0))
    assert result.failed == ("evidence (shadow gain not measured, gradient ratio 0)",)


def test_a_dry_run_asks_for_no_evidence_of_worth() -> None:
    gates = make_gates(GateConfig(is_evidence_required=False))
    assert gates.check_blending(_state(stage=S.TRAINING, gradient_ratio=0.0)).is_passed
    assert gates.check_fossilization(_state(contribution=_estimate(-0.05))).is_passed


def test_blueprint_that_does_not_fit_is_refused() -> None:
    result = make_gates().check_germination(SeedState(slot="a"), fits=False)
    assert result.failed == ("blueprint fits (the blueprint does not fit this slot)",)


def test_shadow_gain_outweighs_the_gradient_ratio() -> None:
    state = _state(stage=S.TRAINING, gradient_ratio=0.0, shadow_gain=_estimate(0.01))
    result = make_gates().check_blending(state)
    assert result.is_passed
    assert result.measured == {"shadow_gain": 0.01, "gradient_ratio": 0.0}


def test_missing_contribution_fails_what_needs_it() -> None:
    result = make_gates().check_fossilization(_state(contribution=None))
    assert [failure.split(" (")[0] for failure in result.failed] == [
        "above its error",
        "above threshold",
        "credit",
    ]


def test_unknown_metrics_do_not_count_as_a_fall() -> None:
    assert make_gates().check_stability(_state(metric_now=None)).is_passed
    assert make_gates().check_stability(_state(metric_at_stage_start=None)).is_passed


def test_threshold_of_the_config_beats_that_of_the_task() -> None:
    gates = make_gates(GateConfig(keep_threshold=0.1), keep_threshold=0.001)
    assert gates.keep_threshold == 0.1
    assert not gates.check_fossilization(_state()).is_passed
    assert make_gates(keep_threshold=0.001).keep_threshold == 0.001


@pytest.mark.parametrize(
    ("stage", "gate"), [(S.GERMINATED, "G1"), (S.TRAINING, "G2"), (S.BLENDING, "G3"), (S.DORMANT, "nothing")]
)
def test_advance_is_refused_by_the_gate_of_the_stage(stage: SeedStage, gate: str) -> None:
    refusal = make_gates().refuse_advance(SeedState(slot="a", stage=stage))
    assert refusal is not None
    assert refusal.startswith(gate)


def test_fossilize_asks_stability_before_contribution() -> None:
    gates = make_gates()
    assert gates.refuse_fossilize(_state()) is None
    assert str(gates.refuse_fossilize(_state(epochs_in_stage=0, contribution=None))).startswith("G4")
    assert str(gates.refuse_fossilize(_state(contribution=None))).startswith("G5")


@pytest.mark.parametrize("stage", [stage for stage in SeedStage if stage is not SeedStage.PROBATIONARY])
def test_nothing_is_kept_but_from_probation(stage: SeedStage) -> None:
    reason = make_gates().refuse_fossilize(SeedState(slot="a", stage=stage))
    assert reason == f"nothing is kept from {stage.value}"


def test_result_without_checks_scores_one() -> None:
    assert GateResult(gate="G0", passed=(), failed=()).score == 1.0
