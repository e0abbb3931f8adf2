"""Claims about saved states: they are copies, they are plain, and a foreign one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import ForeignCheckpointError
from esper.tolaria import StateRecord
from esper.tolaria.snapshot import capture_state, is_finite, restore_state

from .small_run import assert_same, drive, make_config, make_run, tensors_of, through_json


def test_a_record_does_not_change_when_training_goes_on() -> None:
    run = make_run()
    drive(run, 2)
    record = run.state()
    kept, state = {name: t.clone() for name, t in record.tensors.items()}, through_json(record).state
    drive(run, 4)
    assert_same(kept, dict(record.tensors))
    assert through_json(record).state == state


def test_only_a_full_state_holds_the_last_good_one() -> None:
    run = make_run()
    with_it, without = capture_state(run, with_last_good=True), capture_state(run, with_last_good=False)
    assert "last_good" in with_it.state
    assert "last_good" not in without.state
    assert not any(name.startswith("last_good.") for name in without.tensors)


def test_a_capture_restored_into_the_same_run_gives_the_same_capture() -> None:
    run = make_run()
    drive(run, 3)
    record = through_json(run.state())
    drive(run, 5)
    run.restore(record)
    again = run.state()
    assert_same(record.tensors, again.tensors)
    assert again.state == record.state


def test_a_rollback_keeps_what_may_never_run_backwards() -> None:
    run = make_run()
    drive(run, 1)
    record = capture_state(run, with_last_good=False)
    drive(run, 3)
    count, spent, last_good = run.event_count, run.bench.ledger.total, run.last_good
    run.bench.governor.count_rollback()
    restore_state(run, record, keep_counters=True)
    assert run.epoch == 1
    assert (run.event_count, run.bench.ledger.total) == (count, spent)
    assert run.bench.governor.rollback_count == 1
    assert run.last_good is last_good


def test_the_last_good_state_comes_back_on_a_resume() -> None:
    run, resumed = make_run(), make_run()
    drive(run, 4)
    resumed.restore(through_json(run.state()))
    assert resumed.last_good.state["epoch"] == 3
    assert_same(run.last_good.tensors, resumed.last_good.tensors)


def test_a_tensor_of_another_shape_is_refused() -> None:
    run = make_run()
    record = run.state()
    tensors = dict(record.tensors) | {"model.host.head.2.weight": torch.zeros(2, 2)}
    with pytest.raises(ForeignCheckpointError, match="does not fit"):
        run.restore(StateRecord(tensors=tensors, state=record.state))


def test_other_slots_are_refused() -> None:
    run = make_run()
    record = run.state()
    with pytest.raises(ForeignCheckpointError, match="saved slots"):
        run.restore(StateRecord(tensors=record.tensors, state={**record.state, "slots": {"elsewhere": {}}}))


@pytest.mark.parametrize("name", ["slots", "optimizer", "pool", "tracker", "governor", "progress", "signals"])
def test_a_missing_part_is_named(name: str) -> None:
    run = make_run()
    record = run.state()
    state = {key: value for key, value in record.state.items() if key != name}
    with pytest.raises(ForeignCheckpointError, match=f"'{name}'"):
        run.restore(StateRecord(tensors=record.tensors, state=state))


def test_a_state_of_another_precision_is_refused() -> None:
    record = make_run().state()
    with pytest.raises(ForeignCheckpointError, match="precision"):
        make_run(replace(make_config(), amp="fp16")).restore(record)


def test_weights_are_those_that_were_saved() -> None:
    run, other = make_run(), make_run(seed=9)
    drive(run, 3)
    other.restore(run.state())
    assert_same(tensors_of(run), tensors_of(other))
    assert other.bench.model.topology_hash() == run.bench.model.topology_hash()


@pytest.mark.battery("T32")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_with_a_number_that_is_not_finite_never_becomes_the_last_good_one(value: float) -> None:
    run = make_run(replace(make_config(), snapshot_every=1))
    drive(run, 1)
    good = run.last_good
    with torch.no_grad():
        for parameter in run.bench.model.slot("block1").parameters():
            parameter.view(-1)[0] = value
    run.train_epoch()
    assert run.last_good is good
    assert is_finite(run.last_good)
    assert not is_finite(capture_state(run, with_last_good=False))
