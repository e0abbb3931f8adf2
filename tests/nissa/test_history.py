"""Curves, strips and fates follow the events that still hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from esper.leyline import Event, RewardGranted, RolledBack, SeedCulled, SeedGerminated
from esper.nissa import compute_curves, compute_fates, compute_strips, effective_events
from esper.nissa.analytics.history import StageSpan
from nissa.sample_run import EPOCHS, SLOTS, decided, finished_epoch, moved, numbered, run_events

EVENTS = tuple(run_events())


def rolled_back(epoch: int) -> Event:
    return RolledBack(
        epoch=epoch,
        verdict="diverged",
        reason="",
        restored_epoch=epoch,
        blamed_slot="block1",
        rollback_count=1,
    )


def germinated(epoch: int, slot: str = "block1") -> list[Event]:
    return [
        decided(epoch, "GERMINATE", slot),
        moved(epoch, slot, "DORMANT", "GERMINATED", f"{slot}#1"),
        SeedGerminated(
            epoch=epoch,
            slot=slot,
            seed_id=f"{slot}#1",
            blueprint="norm",
            blend="add",
            num_params=1,
            flops_per_item=1,
        ),
    ]


def test_the_reward_of_a_decision_that_was_taken_back_does_not_hold() -> None:
    paid = [RewardGranted(epoch=e, total=0.1, parts={}, return_so_far=0.1) for e in (1, 2, 2)]
    events = [
        *(decided(0, "WAIT"), paid[0], decided(1, "WAIT"), rolled_back(1), paid[1]),
        *(decided(1, "WAIT"), paid[2]),
    ]
    kept = effective_events(numbered(events))
    assert [event.kind for event in kept] == [
        "DecisionMade",
        "RewardGranted",
        "RolledBack",
        "DecisionMade",
        "RewardGranted",
    ]


def test_curves_have_one_point_per_epoch() -> None:
    curves = compute_curves(EVENTS)
    assert curves.epochs == tuple(range(1, EPOCHS + 1))
    assert curves.metric_name == "accuracy"
    assert curves.metric[11] == finished_epoch(12).raw_metrics["accuracy"]
    assert curves.train_metric is not None
    assert len(curves.train_metric) == EPOCHS


def test_without_training_metrics_there_is_no_training_curve() -> None:
    assert compute_curves(run_events(train_metric=False)).train_metric is None
    assert compute_curves([]).epochs == ()


def test_a_repeated_epoch_counts_as_last_told() -> None:
    again = replace(finished_epoch(1), validation_loss=7.0)
    assert compute_curves([finished_epoch(1), again]).validation_loss == (7.0,)


def test_strips_cover_every_slot_without_a_gap() -> None:
    strips = compute_strips(EVENTS)
    assert tuple(strips) == SLOTS
    for spans in strips.values():
        assert spans[0].start_epoch == 0
        assert spans[-1].end_epoch == EPOCHS
        assert all(left.end_epoch == right.start_epoch for left, right in pairwise(spans))
    assert [span.stage for span in strips["block2"]] == [
        "DORMANT", "GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED",
    ]  # fmt: skip
    assert strips["block2"][3] == StageSpan(
        stage="BLENDING", start_epoch=10, end_epoch=13, seed_id="block2#1"
    )
    assert strips["block1"][-1] == StageSpan(stage="DORMANT", start_epoch=26, end_epoch=40, seed_id=None)


def test_a_slot_never_announced_still_has_a_strip() -> None:
    spans = compute_strips([moved(3, "extra", "DORMANT", "GERMINATED", "extra#1")])["extra"]
    assert [(span.stage, span.start_epoch) for span in spans] == [("DORMANT", 0), ("GERMINATED", 3)]


def test_fates_tell_how_every_seed_ended() -> None:
    fates = {fate.seed_id: fate for fate in compute_fates(EVENTS)}
    kept, culled, late = fates["block2#1"], fates["block1#1"], fates["block3#1"]
    assert (kept.outcome, kept.end_epoch, kept.contribution, kept.contribution_error) == (
        "fossilized", 20, 0.0213, 0.0041,
    )  # fmt: skip
    assert (culled.outcome, culled.reason, culled.contribution) == ("culled", "policy", -0.0112)
    assert (late.outcome, late.reason, late.contribution) == ("culled", "horizon", None)


def test_a_seed_that_did_not_end_is_live() -> None:
    (fate,) = compute_fates(germinated(3))
    assert (fate.outcome, fate.end_epoch) == ("live", None)


def test_a_seed_unknown_to_the_log_is_left_out() -> None:
    cull = SeedCulled(
        epoch=1, slot="a", seed_id="a#1", blueprint="x", num_params=1, age_epochs=1, reason="policy"
    )
    assert compute_fates([cull]) == ()


def test_what_a_kept_seed_measured_later_does_not_change_its_verdict() -> None:
    late = [event for event in EVENTS if event.kind == "SlotMeasured" and event.epoch == 19]
    assert compute_fates([*EVENTS, *late])[0].contribution == 0.0213


def test_a_rollback_undoes_everything_from_the_decision_after_the_snapshot() -> None:
    before = [finished_epoch(4), moved(4, "block2", "RESETTING", "DORMANT", None)]
    undone = [*germinated(4), finished_epoch(5), decided(5, "WAIT")]
    after = [rolled_back(4), decided(4, "WAIT"), finished_epoch(5)]
    events = effective_events(numbered([*before, *undone, *after]))
    assert events == (*before, *after)
    assert compute_fates(events) == ()


def test_a_second_rollback_keeps_the_first_ones_mark() -> None:
    events = [finished_epoch(4), decided(4, "WAIT"), rolled_back(4), decided(4, "WAIT"), rolled_back(4)]
    assert effective_events(numbered(events)) == (finished_epoch(4), rolled_back(4), rolled_back(4))


def test_each_instance_has_its_own_history() -> None:
    records = numbered([finished_epoch(1), replace(finished_epoch(2), instance=1)])
    assert [event.epoch for event in effective_events(records, 1)] == [2]
