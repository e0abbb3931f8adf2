"""Examples of the moves that the state machine test draws at random, with their events and reasons."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.kasmina import LifecycleConfig, SeedSlot
from esper.leyline import (
    Action,
    Event,
    IllegalTransitionError,
    LifecycleOp,
    SeedCulled,
    SeedFossilized,
    SeedGerminated,
    SeedStage,
    StageChanged,
)
from kasmina.growing import (
    BATCHES,
    grow,
    make_action,
    make_birth,
    make_clock,
    make_lifecycle,
    make_model,
    make_ready,
    make_spec,
)

S = SeedStage


def test_cull_before_germination_raises_and_changes_nothing() -> None:
    slot = SeedSlot(make_spec())
    before = slot.state.to_dict()
    with pytest.raises(IllegalTransitionError, match=r"cannot cull .* in stage DORMANT.*GERMINATED"):
        make_lifecycle().cull(slot, make_clock(), "test")
    assert slot.state.to_dict() == before


def test_second_germination_raises_and_keeps_the_first_seed() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle()
    events = lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    assert any(isinstance(event, SeedGerminated) for event in events)
    seed = slot.seed
    with pytest.raises(IllegalTransitionError, match="G0"):
        lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    assert slot.seed is seed
    assert slot.state.num_germinations == 1


def test_fossil_is_final() -> None:
    model = make_model()
    slot = grow(model, "block1", S.FOSSILIZED)
    before, lifecycle, clock = slot.state.to_dict(), model.lifecycle, make_clock(9)
    retarget = Action(op=LifecycleOp.SET_ALPHA, slot="block1", alpha_target=0.5)
    calls: tuple[Callable[[], list[Event]], ...] = (
        lambda: lifecycle.cull(slot, clock, "test"),
        lambda: lifecycle.advance(slot, clock),
        lambda: lifecycle.fossilize(slot, clock),
        lambda: lifecycle.retarget(slot, retarget, clock),
    )
    for call in calls:
        with pytest.raises(IllegalTransitionError, match="legal next stages: none"):
            call()
    assert slot.state.to_dict() == before


def test_fossilization_reports_what_was_measured() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    make_ready(slot)
    events = model.lifecycle.fossilize(slot, make_clock(3))
    (kept,) = [event for event in events if isinstance(event, SeedFossilized)]
    assert (kept.contribution, kept.seed_id) == (0.05, "block1#1")


def test_cull_with_tempo_removes_the_seed_after_the_ramp() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    model.lifecycle.cull(slot, make_clock(1), "useless", tempo_epochs=1)
    with pytest.raises(IllegalTransitionError, match="a cull is under way"):
        model.lifecycle.advance(slot, make_clock(1))
    with pytest.raises(IllegalTransitionError, match="a cull is under way"):
        model.lifecycle.fossilize(slot, make_clock(1))
    assert model.tick(make_clock(1)) == []
    slot.follow_ramp(2 * BATCHES)
    events = model.tick(make_clock(2))
    (culled,) = [event for event in events if isinstance(event, SeedCulled)]
    assert (culled.reason, culled.seed_id, slot.state.cull_reason) == ("useless", "block1#1", "useless")
    assert not list(slot.parameters())


def test_cooldown_lasts_as_configured() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(LifecycleConfig(embargo_epochs=2, reset_epochs=1))
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    lifecycle.cull(slot, make_clock(), "test")
    stages = []
    for epoch in range(1, 6):
        lifecycle.tick(slot, make_clock(epoch))
        stages.append(slot.state.stage)
    assert stages == [S.EMBARGOED, S.EMBARGOED, S.RESETTING, S.DORMANT, S.DORMANT]


def test_automatic_training_waits_for_its_gate() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(LifecycleConfig(is_training_automatic=True))
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    slot.state.has_optimizer_entries = True
    lifecycle.begin_epoch(slot, make_clock())
    assert lifecycle.tick(slot, make_clock(1)) == []
    make_ready(slot)
    events = lifecycle.tick(slot, make_clock(2))
    assert [e.new for e in events if isinstance(e, StageChanged)] == ["BLENDING"]


def test_manual_germination_does_not_train_by_itself() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(LifecycleConfig(is_germinated_automatic=False))
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    make_ready(slot)
    assert lifecycle.begin_epoch(slot, make_clock()) == []


def test_probation_times_out_where_that_is_set() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    lifecycle = make_lifecycle(LifecycleConfig(probation_timeout_epochs=2))
    assert lifecycle.tick(slot, make_clock(2)) == []
    lifecycle.tick(slot, make_clock(3))
    assert slot.state.is_cull_pending
    assert "timeout after 2 epochs" in str(slot.state.cull_reason)


def test_finished_ramp_below_one_stays_in_blending() -> None:
    model = make_model()
    slot = grow(model, "block1", S.BLENDING)
    low = Action(op=LifecycleOp.SET_ALPHA, slot="block1", alpha_target=0.5, tempo_epochs=1)
    model.lifecycle.retarget(slot, low, make_clock(1))
    slot.follow_ramp(2 * BATCHES)
    assert model.tick(make_clock(2)) == []
    assert (slot.state.stage, slot.state.alpha, slot.state.ramp) == (S.BLENDING, 0.5, None)


def test_restore_refuses_a_record_without_its_module() -> None:
    slot = SeedSlot(make_spec())
    with pytest.raises(ValueError, match="does not match its module"):
        make_lifecycle().restore(slot, slot.state, make_birth(slot.spec).seed)
