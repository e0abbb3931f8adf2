from __future__ import annotations

import json
from dataclasses import fields

import pytest

from esper.kasmina import AlphaRamp, SeedState, SlotScores
from esper.leyline import AlphaCurve, BlendForm, Estimate, SeedStage, UnknownNameError


def _full() -> SeedState:
    return SeedState(
        slot="block1", num_germinations=2, stage=SeedStage.BLENDING, previous_stage=SeedStage.TRAINING,
        seed_id="block1#2", blueprint="norm", blend=BlendForm.GATE, curve=AlphaCurve.COSINE, alpha=0.5,
        ramp=AlphaRamp(start_value=0.0, target=1.0, start_batch=3, num_batches=4, curve=AlphaCurve.COSINE),
        contribution=Estimate(mean=0.1, standard_error=0.01, num_items=9), num_params=5,
        shadow_gain=Estimate(mean=0.2, standard_error=0.02, num_items=9), history=[("BLENDING", 3)],
        gate_metric_now=0.8, gate_metric_at_blend_start=0.75, cull_reason="old",
        scores=SlotScores(gradient_energy=0.5, blueprint_gains={"norm": 0.1}, alpha_slope=-0.2),
        scores_age_epochs=1,
    )  # fmt: skip


def test_record_survives_json() -> None:
    for state in (SeedState(slot="a"), _full()):
        assert SeedState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_unknown_or_missing_field_is_refused() -> None:
    data = _full().to_dict()
    with pytest.raises(ValueError, match="colour"):
        SeedState.from_dict({**data, "colour": 1})
    scores = data["scores"]
    assert isinstance(scores, dict)
    with pytest.raises(ValueError, match=r"slot score fields differ: .*colour"):
        SeedState.from_dict({**data, "scores": {**scores, "colour": 1}})
    del data["alpha"]
    with pytest.raises(ValueError, match="alpha"):
        SeedState.from_dict(data)


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("stage", "TRAINNG", "unknown stage 'TRAINNG': did you mean 'TRAINING'"),
        ("stage", "SHADOWING", "known: .*DORMANT.*TRAINING"),
        ("stage", None, "unknown stage 'None'"),
        ("previous_stage", "SPROUTING", "unknown stage 'SPROUTING'"),
        ("blend", "ad", "unknown blend form 'ad': did you mean 'add'"),
        ("curve", "straight", "known: cosine, linear, sigmoid"),
    ],
)
def test_an_unknown_stage_form_or_curve_is_an_error_that_lists_the_known_ones(
    field: str, name: str | None, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        SeedState.from_dict({**_full().to_dict(), field: name})


def test_cleared_seed_leaves_only_what_belongs_to_the_slot() -> None:
    state = _full()
    state.clear_seed()
    kept = {
        f.name for f in fields(SeedState) if getattr(state, f.name) != getattr(SeedState(slot="x"), f.name)
    }
    assert kept == {
        "slot", "num_germinations", "stage", "previous_stage", "history", "cull_reason", "gate_metric_now",
    }  # fmt: skip


def test_credit_is_the_smaller_of_contribution_and_gain() -> None:
    state = _full()
    assert state.credit == pytest.approx(0.05)
    state.gate_metric_now = 0.95
    assert state.credit == 0.1
    state.gate_metric_at_blend_start = None
    assert state.credit is None


def test_history_keeps_the_last_hundred() -> None:
    state = SeedState(slot="a")
    for epoch in range(130):
        state.record_stage(SeedStage.DORMANT, epoch)
    assert (len(state.history), state.history[0][1], state.history[-1][1]) == (100, 30, 129)


def test_velocity_is_a_moving_average_of_changes() -> None:
    state = SeedState(slot="a")
    for mean in (0.1, 0.2, 0.5):
        state.record_contribution(Estimate(mean=mean, standard_error=0.0, num_items=1))
    assert state.contribution_velocity == pytest.approx(0.7 * 0.1 + 0.3 * 0.3)
    assert (state.num_measurements, state.contribution_age_epochs) == (3, 0)
    state.clear_measurements()
    assert (state.contribution, state.contribution_velocity, state.num_measurements) == (None, None, 0)


def test_health_needs_finite_gradients_and_no_skipped_batch() -> None:
    assert SeedState(slot="a").is_healthy
    assert not SeedState(slot="a", num_skipped_batches=1).is_healthy
    assert not SeedState(slot="a", has_finite_gradients=False).is_healthy


def test_value_without_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        SeedState(slot="a", cull_reason=object()).to_dict()  # type: ignore[arg-type]
