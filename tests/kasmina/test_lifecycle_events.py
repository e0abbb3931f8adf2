"""What each move of kasmina/lifecycle.py reports and what a refused one says: events and messages in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.kasmina import GateConfig, Lifecycle, LifecycleConfig, SeedSlot
from esper.leyline import (
    Action,
    AlphaCurve,
    AlphaRetargeted,
    Event,
    GateEvaluated,
    IllegalTransitionError,
    LifecycleOp,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedStage,
    StageChanged,
)
from kasmina.growing import (
    grow,
    make_action,
    make_birth,
    make_clock,
    make_gates,
    make_lifecycle,
    make_model,
    make_ready,
    make_spec,
)

S = SeedStage


def _changed(epoch: int, seed_id: str | None, old: str, new: str, reason: str) -> StageChanged:
    return StageChanged(epoch=epoch, slot="block1", seed_id=seed_id, old=old, new=new, reason=reason)


def test_germination_reports_what_was_planted() -> None:
    slot = SeedSlot(make_spec())
    birth = make_birth(slot.spec)
    assert make_lifecycle().germinate(slot, make_action(), birth, make_clock(2)) == [
        GateEvaluated(
            epoch=2, slot="block1", seed_id="", gate="G0", is_passed=True,
            passed=("slot is dormant", "blueprint fits"), failed=(),
        ),
        _changed(2, "block1#1", "DORMANT", "GERMINATED", "germinated"),
        SeedGerminated(
            epoch=2, slot="block1", seed_id="block1#1", blueprint="conv_light", blend="add",
            num_params=birth.num_params, flops_per_item=10,
        ),
    ]  # fmt: skip


def test_each_move_names_gate_seed_and_reason() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle()
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    make_ready(slot)
    lifecycle.advance(slot, make_clock(1))
    make_ready(slot)
    assert lifecycle.advance(slot, make_clock(3), "policy") == [
        GateEvaluated(
            epoch=3, slot="block1", seed_id="block1#1", gate="G2", is_passed=True,
            passed=("stage is TRAINING", "incubated", "gradients measured", "gradients finite", "evidence"),
            failed=(), measured={"gradient_ratio": 0.9},
        ),
        _changed(3, "block1#1", "TRAINING", "BLENDING", "policy"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "move", "refusal"),
    [
        (
            S.GERMINATED,
            "germinate",
            "cannot germinate slot 'block1' in stage GERMINATED: G0: slot is dormant (GERMINATED); "
            "legal next stages: TRAINING, CULLED",
        ),
        (
            S.TRAINING,
            "advance",
            "cannot advance slot 'block1' in stage TRAINING: G2: incubated (0 epochs incubated, needs 2); "
            "gradients measured (no gradient was measured yet); evidence (shadow gain not measured, gradient "
            "ratio not measured); legal next stages: BLENDING, CULLED",
        ),
        (
            S.PROBATIONARY,
            "advance",
            "cannot advance slot 'block1' in stage PROBATIONARY; legal next stages: FOSSILIZED, CULLED",
        ),
        (
            S.BLENDING,
            "fossilize",
            "cannot fossilize slot 'block1' in stage BLENDING; legal next stages: PROBATIONARY, CULLED",
        ),
        (
            S.PROBATIONARY,
            "fossilize",
            "cannot fossilize slot 'block1' in stage PROBATIONARY: G4: lasted (0 epochs on probation, needs "
            "2); measured (0 measurements, needs 2); legal next stages: FOSSILIZED, CULLED",
        ),
        (
            S.TRAINING,
            "retarget",
            "cannot set alpha of slot 'block1' in stage TRAINING; legal next stages: BLENDING, CULLED",
        ),
        (S.FOSSILIZED, "cull", "cannot cull slot 'block1' in stage FOSSILIZED; legal next stages: none"),
    ],
)
def test_a_refusal_says_what_where_why_and_what_is_legal(stage: SeedStage, move: str, refusal: str) -> None:
    model = make_model()
    slot, lifecycle, clock = grow(model, "block1", stage), model.lifecycle, make_clock(1)
    slot.state.gradient_ratio = None
    moves: dict[str, Callable[[], list[Event]]] = {
        "germinate": lambda: lifecycle.germinate(slot, make_action(), make_birth(slot.spec), clock),
        "advance": lambda: lifecycle.advance(slot, clock),
        "fossilize": lambda: lifecycle.fossilize(slot, clock),
        "retarget": lambda: lifecycle.retarget(slot, make_action(), clock),
        "cull": lambda: lifecycle.cull(slot, clock, "test"),
    }
    with pytest.raises(IllegalTransitionError) as refused:
        moves[move]()
    assert str(refused.value) == refusal


@pytest.mark.parametrize("move", ["fossilize", "retarget", "advance"])
def test_a_refusal_names_the_cull_that_is_under_way(move: str) -> None:
    model = make_model()
    slot, lifecycle, clock = grow(model, "block1", S.PROBATIONARY), model.lifecycle, make_clock(1)
    make_ready(slot)
    lifecycle.cull(slot, clock, "useless", tempo_epochs=1)
    slot.state.ramp = None  # every gate would pass: the cull alone refuses
    moves: dict[str, Callable[[], list[Event]]] = {
        "advance": lambda: lifecycle.advance(slot, clock),
        "fossilize": lambda: lifecycle.fossilize(slot, clock),
        "retarget": lambda: lifecycle.retarget(slot, make_action(), clock),
    }
    with pytest.raises(IllegalTransitionError) as refused:
        moves[move]()
    assert str(refused.value).endswith(
        " slot 'block1' in stage PROBATIONARY (a cull is under way); legal next stages: FOSSILIZED, CULLED"
    )


def test_a_stable_seed_whose_contribution_is_stale_is_refused_by_the_last_gate() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    make_ready(slot)
    slot.state.contribution_age_epochs = 2
    with pytest.raises(IllegalTransitionError) as refused:
        model.lifecycle.fossilize(slot, make_clock(3))
    assert str(refused.value) == (
        "cannot fossilize slot 'block1' in stage PROBATIONARY: G5: fresh (contribution is 2 epochs old, at "
        "most 1); legal next stages: FOSSILIZED, CULLED"
    )


def test_a_gate_that_lets_a_move_through_cannot_bend_the_table() -> None:
    slot = grow(make_model(), "block1", S.PROBATIONARY)
    make_ready(slot)
    lifecycle = Lifecycle(LifecycleConfig(), make_gates())
    jump = {S.PROBATIONARY: (S.CULLED,)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esper.leyline.stages.TRANSITIONS", jump)
        with pytest.raises(
            IllegalTransitionError, match=r"^cannot move to FOSSILIZED slot .*; legal next stages: CULLED$"
        ):
            lifecycle.fossilize(slot, make_clock(3))
    assert slot.state.stage is S.PROBATIONARY


def test_fossilization_reports_what_was_measured() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    make_ready(slot)
    slot.state.seed_age_epochs = 6
    slot.state.gate_metric_now = 0.7 + 0.03125
    num_params = sum(p.numel() for p in slot.parameters())
    credit = slot.state.credit
    events = model.lifecycle.fossilize(slot, make_clock(3))
    gates = [event.gate for event in events if isinstance(event, GateEvaluated)]
    assert gates == ["G4", "G5"]
    assert events[2] == _changed(3, "block1#1", "PROBATIONARY", "FOSSILIZED", "kept")
    assert events[-1] == SeedFossilized(
        epoch=3, slot="block1", seed_id="block1#1", blueprint="conv_light", num_params=num_params,
        age_epochs=6, contribution=0.05, contribution_error=0.001, credit=credit,
    )  # fmt: skip


def test_a_dry_run_keeps_a_seed_that_was_never_measured() -> None:
    slot = grow(make_model(), "block1", S.PROBATIONARY)
    make_ready(slot)
    slot.state.contribution = None
    gates = make_gates(GateConfig(is_evidence_required=False))
    kept = Lifecycle(LifecycleConfig(), gates).fossilize(slot, make_clock(3))[-1]
    assert isinstance(kept, SeedFossilized)
    assert (kept.contribution, kept.contribution_error, kept.credit) == (None, None, None)


def test_cull_reports_what_is_lost() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    make_ready(slot)
    slot.state.seed_age_epochs = 6
    num_params = sum(p.numel() for p in slot.parameters())
    assert model.lifecycle.cull(slot, make_clock(4), "useless") == [
        _changed(4, "block1#1", "PROBATIONARY", "CULLED", "useless"),
        SeedCulled(
            epoch=4, slot="block1", seed_id="block1#1", blueprint="conv_light", num_params=num_params,
            age_epochs=6, reason="useless", contribution=0.05,
        ),
    ]  # fmt: skip


def test_cull_of_an_unmeasured_seed_reports_no_contribution() -> None:
    model = make_model()
    slot = grow(model, "block1", S.TRAINING)
    culled = model.lifecycle.cull(slot, make_clock(1), "test", tempo_epochs=3)[-1]
    assert isinstance(culled, SeedCulled)
    assert culled.contribution is None


def test_retarget_reports_the_way_from_here_to_there() -> None:
    model = make_model()
    slot = grow(model, "block1", S.BLENDING)
    goal = Action(
        op=LifecycleOp.SET_ALPHA, slot="block1", alpha_target=0.75, tempo_epochs=2, curve=AlphaCurve.COSINE
    )
    assert model.lifecycle.retarget(slot, goal, make_clock(1)) == [
        AlphaRetargeted(
            epoch=1, slot="block1", seed_id="block1#1", alpha=0.5, target=0.75, tempo_epochs=2, curve="cosine"
        )
    ]
    assert slot.state.alpha_target == 0.75


def test_a_move_on_request_gives_its_own_name_as_the_reason() -> None:
    slot = grow(make_model(), "block1", S.GERMINATED)
    make_ready(slot)
    assert make_lifecycle().advance(slot, make_clock())[1:] == [
        _changed(0, "block1#1", "GERMINATED", "TRAINING", "advance")
    ]
