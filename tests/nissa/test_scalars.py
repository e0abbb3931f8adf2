from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import Event, Notice, RolledBack, RunFinished, RunStarted, SeedStage
from esper.nissa import EPOCH_AXIS, STAGE_NUMBERS, STEP_AXIS, compute_scalars
from esper.nissa.backends.scalars import goes_back
from nissa.sample_run import finished_epoch, measured, moved, run_events
from nissa.sample_training import started_training, updated


def test_an_epoch_has_losses_metrics_and_growth_on_the_axis_of_epochs() -> None:
    scalars = compute_scalars(finished_epoch(9))
    assert scalars is not None
    assert (scalars.axis, scalars.step) == (EPOCH_AXIS, 9)
    event = finished_epoch(9)
    assert scalars.values["validation/accuracy"] == event.raw_metrics["accuracy"]
    assert scalars.values["train/accuracy"] == event.raw_metrics["train_accuracy"]
    assert scalars.values["train/loss"] == event.train_loss
    assert scalars.values["growth/total_params"] == 7_622
    assert scalars.values["growth/total_flops"] == 9 * 129_000_000  # plain validation is not counted


def test_a_round_keeps_its_names_on_the_axis_of_steps() -> None:
    event = updated(4)
    scalars = compute_scalars(event)
    assert scalars is not None
    assert (scalars.axis, scalars.step) == (STEP_AXIS, 80)
    assert {name: scalars.values[name] for name in event.metrics} == event.metrics
    assert (scalars.values["time/iterations"], scalars.values["time/total_timesteps"]) == (4.0, 80.0)


def test_a_measured_slot_leaves_out_what_is_not_known() -> None:
    scalars = compute_scalars(measured(5, "block2", "block2#1", "BLENDING", 0.02))
    assert scalars is not None
    names = {"alpha", "contribution", "contribution_error", "gradient_ratio"}
    assert set(scalars.values) == {f"slots/block2/{name}" for name in names}


def test_every_stage_has_a_number() -> None:
    assert set(STAGE_NUMBERS) == {stage.value for stage in SeedStage}
    scalars = compute_scalars(moved(3, "block1", "TRAINING", "BLENDING", "block1#1"))
    assert scalars is not None
    assert scalars.values == {"slots/block1/stage": STAGE_NUMBERS["BLENDING"]}
    assert compute_scalars(moved(3, "block1", "TRAINING", "SLEEPING", None)) is None


def test_the_end_has_the_test_metrics() -> None:
    scalars = compute_scalars(list(run_events())[-1])
    assert scalars is not None
    assert scalars.values == {"test/accuracy": 0.938, "test/loss": 0.231}


@pytest.mark.parametrize("event", [Notice(epoch=1, text="x"), RunFinished(epoch=1, reason="horizon")])
def test_an_event_without_numbers_has_none(event: Event) -> None:
    assert compute_scalars(event) is None


def test_other_hosts_have_a_place_of_their_own() -> None:
    scalars = compute_scalars(replace(finished_epoch(1), instance=3))
    assert scalars is not None
    assert all(name.startswith("host3/") for name in scalars.values)


def test_a_name_cannot_steer_a_terminal_and_a_bad_number_stays() -> None:
    event = replace(finished_epoch(1), raw_metrics={"\x1b[31mred": math.nan})
    scalars = compute_scalars(event)
    assert scalars is not None
    assert math.isnan(scalars.values["validation/red"])


def test_a_resume_and_a_rollback_go_back() -> None:
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    back = RolledBack(
        epoch=6, verdict="diverged", reason="loss", restored_epoch=4, blamed_slot=None, rollback_count=1
    )
    assert not goes_back(start)
    assert not goes_back(started_training())
    assert goes_back(replace(start, is_resumed=True))
    assert goes_back(replace(started_training(), is_resumed=True))
    assert goes_back(back)
    assert not goes_back(replace(back, is_terminal=True))
