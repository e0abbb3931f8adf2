"""What holds for every record of the contract layer; covers leyline/blueprints.py, leyline/decisions.py,
leyline/events.py, leyline/observation.py, leyline/policy_events.py, leyline/reports.py,
leyline/signals.py and leyline/task.py."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from builders import make_observation, make_report, make_signals
from esper import leyline
from esper.leyline import (
    BLUEPRINT_FAMILIES,
    EVENT_TYPES,
    WAIT,
    Action,
    ActionResult,
    Event,
    EventClass,
    FastTrainingSignals,
    LifecycleOp,
    Notice,
    RunStarted,
    SeedStage,
    SlotMeasured,
    SlotReport,
    StageChanged,
)

RECORDS = [item for name in leyline.__all__ if dataclasses.is_dataclass(item := getattr(leyline, name))]


def is_slotted(record: type) -> bool:
    """Whether no class of the record's family gives its instances a `__dict__`."""
    return all("__slots__" in vars(kind) for kind in record.__mro__ if kind is not object)


@pytest.mark.parametrize("record", [record for record in RECORDS if isinstance(record, type)])
def test_every_record_is_frozen_slotted_and_keyword_only(record: type) -> None:
    parameters = vars(record)["__dataclass_params__"]
    assert parameters.frozen
    assert is_slotted(record)
    kinds = {parameter.kind for parameter in inspect.signature(record).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    "instance", [make_report(), make_signals(), make_observation(), WAIT, Notice(epoch=0, text="")]
)
def test_instances_have_no_dict(instance: object) -> None:
    assert not hasattr(instance, "__dict__")


def test_every_record_is_among_the_exports_and_documented() -> None:
    assert len(RECORDS) >= 30
    for record in RECORDS:
        assert record.__doc__
        assert not record.__doc__.startswith(f"{getattr(record, '__name__', '')}(")


def test_event_types_are_complete_and_named_once() -> None:
    # Slots make a dataclass twice, so that the bare class stays among the subclasses: compare names.
    names = [kind.__name__ for kind in EVENT_TYPES]
    assert len(set(names)) == len(names)
    own = {kind.__name__ for kind in Event.__subclasses__() if kind.__module__.startswith("esper.")}
    assert own == set(names)


def test_events_know_their_kind_and_class() -> None:
    moved = StageChanged(epoch=1, slot="a", seed_id="a#1", old="DORMANT", new="GERMINATED", reason="x")
    assert moved.kind == "StageChanged"
    assert moved.event_class is EventClass.LIFECYCLE
    sample = SlotMeasured(
        epoch=1,
        slot="a",
        seed_id="a#1",
        stage="BLENDING",
        alpha=0.5,
        contribution=None,
        contribution_error=None,
        shadow_gain=None,
        credit=None,
        gradient_ratio=None,
    )
    assert sample.event_class is EventClass.SAMPLE
    start = RunStarted(epoch=0, task="t", policy="p", seed=0, horizon_epochs=1, host_params=1, slots=("a",))
    assert start.event_class is EventClass.RUN
    assert start.instance == 0


def test_a_refused_action_counts_as_wait() -> None:
    asked = Action(op=LifecycleOp.CULL, slot="a")
    assert ActionResult(requested=asked, effective=WAIT, refusal="too young").is_refused
    assert not ActionResult(requested=asked, effective=asked).is_refused


def test_an_observation_finds_its_slots_by_id() -> None:
    observation = make_observation(make_report("a"), make_report("b", SeedStage.TRAINING))
    assert observation.slot("b").stage is SeedStage.TRAINING
    with pytest.raises(KeyError):
        observation.slot("c")


def test_an_empty_slot_is_not_ready_for_anything() -> None:
    bare = SlotReport(slot="a", layout="2d", num_channels=8)
    assert bare.stage is SeedStage.DORMANT
    assert bare.advance_refusal == "no seed"
    assert bare.fossilize_refusal == "no seed"


def test_the_fast_signals_are_the_context_without_history() -> None:
    signals = make_signals(7, plateau_epochs=2)
    fast = signals.fast()
    assert isinstance(fast, FastTrainingSignals)
    for name in FastTrainingSignals._fields:
        assert getattr(fast, name) == getattr(signals, name)


def test_family_ids_are_reserved_in_order() -> None:
    assert BLUEPRINT_FAMILIES[:6] == ("noop", "norm", "attention", "depthwise", "conv", "bottleneck")
    assert len(set(BLUEPRINT_FAMILIES)) == len(BLUEPRINT_FAMILIES)
