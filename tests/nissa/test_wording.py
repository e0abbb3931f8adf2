"""Each event has its line, made of what happened before."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import (
    AlertFailed,
    AlphaRetargeted,
    BackendFailed,
    CheckpointFailed,
    CheckpointSaved,
    DecisionMade,
    Event,
    EventsDropped,
    Notice,
    RewardGranted,
    RolledBack,
    RunFinished,
    RunStarted,
    SeedCulled,
    UpdateSkipped,
)
from esper.nissa.line import Line, Tone
from esper.nissa.wording import Narrator, primary_metric
from nissa.sample_run import decided, finished_epoch, measured, moved, numbered, run_events


def tell(*events: Event) -> Line | None:
    """The line of the last event after the others."""
    narrator = Narrator()
    return [narrator.tell(record) for record in numbered(events)][-1]


def culled(reason: str) -> SeedCulled:
    """The end of the seed b1#1."""
    return SeedCulled(
        epoch=4,
        slot="b1",
        seed_id="b1#1",
        blueprint="norm",
        reason=reason,
        num_params=640,
        age_epochs=3,
        contribution=None,
    )


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            RolledBack(
                epoch=4,
                verdict="diverged",
                reason="loss 9.1",
                restored_epoch=4,
                blamed_slot="b1",
                rollback_count=1,
            ),
            "rolled back to epoch 4 (rollback 1): diverged: loss 9.1, b1 is blamed",
        ),
        (
            RolledBack(
                epoch=4,
                verdict="diverged",
                reason="loss 9.1",
                restored_epoch=4,
                blamed_slot=None,
                rollback_count=1,
                is_terminal=True,
            ),
            "rolled back to epoch 4 (rollback 1): diverged: loss 9.1; the episode ends here",
        ),
        (
            UpdateSkipped(epoch=1, group="host", num_batches=3),
            "host: update skipped in 3 batches (not finite)",
        ),
        (
            UpdateSkipped(
                epoch=1, group="host", num_batches=3, batch=7, place="weight", name="slots.b1.w", slot="b1"
            ),
            "host: update skipped in 3 batches (not finite: weight slots.b1.w, first at batch 7)",
        ),
        (
            UpdateSkipped(epoch=1, group="b1", num_batches=0, place="loss", name=""),
            "b1: update skipped in 0 batches (not finite: loss)",
        ),
        (
            CheckpointFailed(epoch=1, name="e1-b0", error="disk full", num_failures=2),
            "checkpoint e1-b0 not saved (2 failures): disk full",
        ),
        (BackendFailed(epoch=1, backend="jsonl", error="gone"), "telemetry backend jsonl is off: gone"),
        (
            AlertFailed(epoch=1, alert="RolledBack", error="exit code 3", num_failures=2),
            "alert command failed (2 in all), last for RolledBack: exit code 3",
        ),
        (EventsDropped(epoch=1, num_dropped=7), "7 samples not shown: output was too slow"),
        (Notice(epoch=1, text="hello"), "note: hello"),
    ],
)
def test_warnings_are_told_even_when_quiet(event: Event, text: str) -> None:
    assert tell(event) == Line(text=text, tone=Tone.WARNING)


@pytest.mark.parametrize(
    "event",
    [
        decided(1, "WAIT"),
        CheckpointSaved(epoch=1, name="e1-b0", num_bytes=9),
        moved(1, "b", "CULLED", "EMBARGOED", "b#1"),
        measured(1, "b", "b#1", "BLENDING", 0.1),
        moved(1, "b", "GERMINATED", "TRAINING", "b#1"),
    ],
    ids=lambda event: event.kind,
)
def test_bookkeeping_is_not_told(event: Event) -> None:
    assert tell(event) is None


def test_steps_of_a_training_are_not_told() -> None:
    asked = decided(1, "CULL", "b1", refusal="too young")
    assert isinstance(asked, DecisionMade)
    assert tell(asked) is not None
    assert tell(replace(asked, round=3, instance=8)) is None
    assert tell(RewardGranted(epoch=2, total=0.1, parts={}, return_so_far=0.1)) is None


def test_a_refusal_names_operation_slot_and_reason() -> None:
    event = DecisionMade(
        epoch=1, op="GERMINATE", slot="b1", blueprint="norm", reason="", confidence=1.0, refusal="no budget"
    )
    assert tell(event) == Line(text="refused: GERMINATE b1 norm: no budget", tone=Tone.WARNING)


def test_a_retarget_tells_the_ramp() -> None:
    event = AlphaRetargeted(
        epoch=1, slot="b1", seed_id="b1#1", alpha=0.25, target=0.5, tempo_epochs=3, curve="cosine"
    )
    line = tell(event)
    assert line is not None
    assert line.text == "b1: seed b1#1 alpha 0.25 -> 0.50 over 3 epochs (cosine)"


def test_a_retarget_over_one_epoch_is_in_the_singular() -> None:
    line = tell(
        AlphaRetargeted(epoch=1, slot="b1", seed_id="b1#1", alpha=1, target=0, tempo_epochs=1, curve="linear")
    )
    assert line is not None
    assert line.text.endswith("alpha 1.00 -> 0.00 over 1 epoch (linear)")


def test_a_cull_tells_why_the_policy_asked_for_it() -> None:
    asked = DecisionMade(
        epoch=3,
        op="CULL",
        slot="b1",
        blueprint=None,
        reason="cull b1#1 (norm): no gain: at all",
        confidence=1.0,
    )
    line = tell(asked, culled("policy"))
    assert line is not None
    assert line.text == "b1: seed b1#1 CULLED: no gain: at all; contribution not measured, -640 params"


@pytest.mark.parametrize(("refusal", "reason"), [(None, "horizon"), ("too young", "policy")])
def test_a_cull_that_no_decision_brought_about_has_its_own_reason(refusal: str | None, reason: str) -> None:
    line = tell(decided(3, "CULL", "b1", refusal=refusal), culled(reason))
    assert line is not None
    assert f"CULLED: {reason}; " in line.text


def test_an_interrupted_run_tells_what_it_has_and_nothing_it_has_not() -> None:
    stopped = RunFinished(epoch=8, reason="interrupted", total_params=1984, flops={"host_train": 2_000_000})
    line = tell(next(iter(run_events())), finished_epoch(8), stopped)
    assert line == Line(text="run stopped at epoch 8/40 (interrupted): 1,984 params; 2 MFLOPs", tone=Tone.END)
    line = tell(RunFinished(epoch=0, reason="interrupted"))
    assert line == Line(text="run stopped at epoch 0/? (interrupted)", tone=Tone.END)


def test_a_resumed_run_counts_fossils_of_before_and_culls_since() -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    end = RunFinished(epoch=40, reason="horizon", total_params=9, flops={"host_train": 1, "validation": 5})
    line = tell(
        replace(start, is_resumed=True), measured(20, "b2", "b2#1", "FOSSILIZED", 0.1), culled("horizon"), end
    )
    assert line is not None
    assert line.text == "run finished: 9 params; 1 fossilized, 1 culled since the resume; 1 FLOPs"


def test_a_fleet_names_the_instance() -> None:
    line = tell(Notice(epoch=1, instance=3, text="hello"))
    assert line is not None
    assert line.text == "[3] note: hello"


def test_a_resume_is_told_and_forgets_the_pause() -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    narrator = Narrator()
    records = numbered(
        [start, finished_epoch(1), replace(start, epoch=1, is_resumed=True), finished_epoch(2)]
    )
    late = [replace(record, wall_time=record.wall_time + 9_000 * (i > 1)) for i, record in enumerate(records)]
    lines = [narrator.tell(record) for record in late]
    assert lines[2] is not None
    assert lines[2].text.startswith("run resumed at epoch 1: ")
    assert lines[1] is not None
    assert lines[3] is not None
    assert "params, 0 live)" in lines[1].text
    assert " live" not in lines[3].text  # which seeds live is not known before the first measurement
    assert narrator.eta_seconds() == 38.0  # one second per epoch, the pause left out
    assert narrator.progress() == (2, 40)


def test_live_seeds_are_known_after_a_resume_from_their_measurements() -> None:
    line = tell(measured(5, "b1", "b1#1", "BLENDING", 0.1), finished_epoch(6))
    assert line is not None
    assert "1 live" in line.text


def test_a_rollback_moves_progress_back() -> None:
    narrator = Narrator()
    back = RolledBack(
        epoch=2, verdict="diverged", reason="", restored_epoch=2, blamed_slot=None, rollback_count=1
    )
    for record in numbered([finished_epoch(5), back]):
        narrator.tell(record)
    assert narrator.progress() == (2, 0)


def test_before_the_start_nothing_is_known() -> None:
    narrator = Narrator()
    assert (narrator.progress(), narrator.eta_seconds()) == ((0, 0), None)
    line = tell(finished_epoch(1))
    assert line is not None
    assert line.text.startswith("epoch 1/?")
    assert "eta" not in line.text


def test_a_loss_that_is_not_finite_is_a_warning() -> None:
    line = tell(replace(finished_epoch(3), validation_loss=math.nan))
    assert line is not None
    assert line.tone is Tone.WARNING
    assert "loss nan" in line.text


def test_the_primary_metric_is_the_named_one() -> None:
    assert primary_metric(finished_epoch(3))[0] == "accuracy"
    assert primary_metric(replace(finished_epoch(3), raw_metrics={}, metric=-1.5)) == ("metric", -1.5)


def test_a_clock_that_goes_back_does_not_spoil_the_eta() -> None:
    narrator = Narrator()
    start = next(iter(run_events()))
    first, second, third = numbered([start, finished_epoch(1), finished_epoch(2)])
    for record in (first, second, replace(third, wall_time=0.0)):
        narrator.tell(record)
    assert narrator.eta_seconds() == 38.0
