"""Examples of the moves that the state machine test draws at random: when they happen and what they leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.kasmina import Clock, LifecycleConfig, SeedSlot
from esper.leyline import (
    Action,
    AlphaRetargeted,
    Estimate,
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
    draw,
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


def _changes(events: list[Event]) -> list[tuple[str, str]]:
    """Return the stage entered and the reason of each move."""
    return [(event.new, event.reason) for event in events if isinstance(event, StageChanged)]


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


def test_a_move_leaves_its_trace_in_the_record() -> None:
    slot = grow(make_model(), "block1", S.TRAINING)
    slot.state.epochs_in_stage = 4
    lifecycle = make_lifecycle()
    make_ready(slot)
    lifecycle.advance(slot, make_clock(7))
    state = slot.state
    assert (state.previous_stage, state.epochs_in_previous_stage, state.epochs_in_stage) == (S.TRAINING, 4, 0)
    assert state.history[-1] == ("BLENDING", 7)


def test_seeds_are_numbered_and_the_last_reason_is_forgotten() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(LifecycleConfig(embargo_epochs=0, reset_epochs=0))
    for number in (1, 2, 3):
        lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
        assert (slot.state.seed_id, slot.state.cull_reason) == (f"block1#{number}", None)
        lifecycle.cull(slot, make_clock(), "test")
        for _ in range(3):
            lifecycle.tick(slot, make_clock())


def test_a_seed_ages_only_while_it_lives() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle()
    lifecycle.tick(slot, make_clock())
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    ages = []
    for epoch in (1, 2, 3):
        lifecycle.tick(slot, make_clock(epoch))
        ages.append(slot.state.seed_age_epochs)
    assert ages == [1, 2, 3]


@pytest.mark.parametrize("stage", [S.BLENDING, S.PROBATIONARY])
def test_entering_a_stage_remembers_the_metrics_it_starts_from(stage: SeedStage) -> None:
    slot = grow(make_model(), "block1", S.TRAINING if stage is S.BLENDING else S.BLENDING)
    make_ready(slot)
    slot.follow_ramp(BATCHES)
    slot.state.metric_now, slot.state.gate_metric_now = 0.625, 0.5
    make_lifecycle().advance(slot, make_clock(1))
    assert slot.state.metric_at_stage_start == 0.625
    assert slot.state.gate_metric_at_blend_start == (0.5 if stage is S.BLENDING else 0.7)


@pytest.mark.parametrize("stage", [S.BLENDING, S.PROBATIONARY])
def test_entering_a_stage_forgets_what_an_earlier_one_measured(stage: SeedStage) -> None:
    slot = grow(make_model(), "block1", S.TRAINING if stage is S.BLENDING else S.BLENDING)
    make_ready(slot)
    slot.follow_ramp(BATCHES)
    state = slot.state
    state.record_contribution(Estimate(mean=0.05, standard_error=0.001, num_items=360, num_intervals=2))
    state.had_governor_event = True
    make_lifecycle().advance(slot, make_clock(1))
    assert (state.contribution, state.contribution_age_epochs, state.num_measurements) == (None, None, 0)
    assert not state.had_governor_event


def test_no_recorded_batch_outlives_incubation_or_the_seed() -> None:
    model = make_model()
    slot = grow(model, "block1", S.TRAINING)
    make_ready(slot)
    slot.features = slot.feature_gradient = draw(2, 8, 5, 5)
    model.lifecycle.advance(slot, make_clock(1))
    kept: list[object] = [slot.features, slot.feature_gradient]
    assert kept == [None, None]
    slot.captured = draw(2, 8, 5, 5)
    model.lifecycle.cull(slot, make_clock(1), "test")
    assert slot.captured is None


def test_training_and_its_ramp_begin_at_the_batch_of_their_clock() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle()
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    make_ready(slot)
    lifecycle.begin_epoch(slot, make_clock(2))
    assert slot.state.birth_batch == 2 * BATCHES
    make_ready(slot)
    lifecycle.advance(slot, make_clock(5))
    alphas = []
    for batch in range(5 * BATCHES, 6 * BATCHES + 1):
        slot.follow_ramp(batch)
        alphas.append(slot.state.alpha)
    assert alphas == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_ramp_lasts_its_tempo_and_begins_where_alpha_is() -> None:
    model = make_model()
    slot = grow(model, "block1", S.BLENDING)
    slot.follow_ramp(BATCHES // 2)
    assert slot.state.alpha == 0.5
    model.lifecycle.cull(slot, make_clock(1), "test", tempo_epochs=3)
    ramp = slot.state.ramp
    assert ramp is not None
    assert (ramp.start_value, ramp.target, ramp.start_batch) == (0.5, 0.0, BATCHES)
    assert ramp.num_batches == 3 * BATCHES


def test_the_shortest_ramp_takes_one_batch() -> None:
    slot = grow(make_model(), "block1", S.TRAINING)
    make_ready(slot)
    make_lifecycle().advance(slot, Clock(epoch=1, batch=0, batches_per_epoch=1))
    assert slot.state.ramp is not None
    assert slot.state.ramp.num_batches == 1


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


@pytest.mark.parametrize(("embargo", "reset"), [(2, 1), (1, 2), (3, 3)])
def test_cooldown_lasts_as_configured(embargo: int, reset: int) -> None:
    config = LifecycleConfig(embargo_epochs=embargo, reset_epochs=reset)
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(config)
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    lifecycle.cull(slot, make_clock(), "test")
    stages, moves = [], []
    for epoch in range(1, embargo + reset + 3):
        moves += _changes(lifecycle.tick(slot, make_clock(epoch)))
        stages.append(slot.state.stage)
    assert stages == [*[S.EMBARGOED] * embargo, *[S.RESETTING] * reset, S.DORMANT, S.DORMANT]
    assert moves == [("EMBARGOED", "cooling down"), ("RESETTING", "embargo over"), ("DORMANT", "free again")]


def test_automatic_training_waits_for_its_gate() -> None:
    slot, lifecycle = SeedSlot(make_spec()), make_lifecycle(LifecycleConfig(is_training_automatic=True))
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), make_clock())
    slot.state.has_optimizer_entries = True
    assert _changes(lifecycle.begin_epoch(slot, make_clock())) == [("TRAINING", "automatic")]
    assert lifecycle.tick(slot, make_clock(1)) == []
    make_ready(slot)
    events = lifecycle.tick(slot, make_clock(2))
    assert _changes(events) == [("BLENDING", "automatic")]
    assert events[0].epoch == 2


def test_a_trained_seed_waits_for_the_policy_where_training_is_not_automatic() -> None:
    slot = grow(make_model(), "block1", S.TRAINING)
    make_ready(slot)
    assert make_lifecycle().tick(slot, make_clock(2)) == []
    assert slot.state.stage is S.TRAINING


def test_a_finished_ramp_moves_on_by_itself() -> None:
    model = make_model()
    slot = grow(model, "block1", S.BLENDING)
    slot.follow_ramp(BATCHES)
    events = model.lifecycle.tick(slot, make_clock(1))
    assert (_changes(events), events[0].epoch) == ([("PROBATIONARY", "automatic")], 1)


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
    (ramp,) = lifecycle.tick(slot, make_clock(3))
    assert isinstance(ramp, AlphaRetargeted)
    assert (ramp.target, ramp.tempo_epochs) == (0.0, 1)
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


def test_a_cull_leaves_an_empty_silent_slot() -> None:
    model = make_model()
    slot = grow(model, "block1", S.PROBATIONARY)
    model.lifecycle.cull(slot, make_clock(1), "test")
    state = slot.state
    assert (slot.seed, state.seed_id, state.blueprint, state.num_params) == (None, None, None, 0)
    assert (state.alpha, float(slot.alpha_mirror), state.alpha_target) == (0.0, 0.0, 1.0)


def test_restore_brings_alpha_back_and_drops_what_was_recorded() -> None:
    saved = grow(make_model(), "block1", S.BLENDING)
    slot = SeedSlot(saved.spec)
    slot.features = draw(2, 8, 5, 5)
    make_lifecycle().restore(slot, saved.state, saved.seed)
    restored: list[object] = [slot.state, slot.seed, slot.features]
    assert restored == [saved.state, saved.seed, None]
    assert float(slot.alpha_mirror) == saved.state.alpha == 0.5


def test_restore_refuses_a_record_without_its_module() -> None:
    slot = SeedSlot(make_spec())
    with pytest.raises(ValueError, match="does not match its module"):
        make_lifecycle().restore(slot, slot.state, make_birth(slot.spec).seed)


def test_a_move_by_hand_asks_no_gate_and_obeys_the_table() -> None:
    lifecycle, slot = make_lifecycle(), SeedSlot(make_spec())
    clock = make_clock()
    with pytest.raises(
        IllegalTransitionError, match="cannot move to BLENDING slot 'block1' in stage DORMANT"
    ):
        lifecycle.move_by_hand(slot, SeedStage.BLENDING, clock)
    lifecycle.germinate(slot, make_action(), make_birth(slot.spec), clock)
    moved = lifecycle.move_by_hand(slot, SeedStage.BLENDING, clock)
    assert [event.new for event in moved if isinstance(event, StageChanged)] == ["TRAINING", "BLENDING"]
    with pytest.raises(IllegalTransitionError, match="alpha is 0 of 1"):
        lifecycle.move_by_hand(slot, SeedStage.FOSSILIZED, clock)
    with pytest.raises(IllegalTransitionError):
        lifecycle.move_by_hand(slot, SeedStage.TRAINING, clock)
    assert slot.state.stage is SeedStage.BLENDING
    slot.follow_ramp(BATCHES)
    kept = lifecycle.move_by_hand(slot, SeedStage.FOSSILIZED, clock)
    assert isinstance(kept[-1], SeedFossilized)
    with pytest.raises(IllegalTransitionError):
        lifecycle.move_by_hand(slot, SeedStage.FOSSILIZED, clock)
