"""Events of diagnostics: samples but for the flag, all in the one table, back from a line as they were."""

from __future__ import annotations

import math

import pytest

from esper.leyline import (
    DIAGNOSTIC_EVENTS,
    DIAGNOSTIC_KINDS,
    EVENT_TYPES,
    SAMPLE_KINDS,
    ClassesMeasured,
    Event,
    EventClass,
    GradientsMeasured,
    RedFlagRaised,
    SharpnessMeasured,
    WeightsMeasured,
)
from esper.nissa import Record, decode_line, encode_record

EVENTS: list[Event] = [
    GradientsMeasured(epoch=1, profile="standard", num_batches=1, health=0.5, layers={"conv1": math.inf}),
    WeightsMeasured(epoch=1, norms={"a": 1.0}, drift={"a": 0.5}, since_epoch={"a": 0}),
    ClassesMeasured(
        epoch=1, num_items=(2, 0), accuracy=(0.5, None), loss=(1.0, None), confusion=((1, 1), (0, 0))
    ),
    SharpnessMeasured(epoch=5, sharpness=2.0, loss=1.0, sigma=0.01, num_draws=3, num_items=9),
    RedFlagRaised(epoch=5, name="sharp_loss", value=2.0, threshold=1.0, instance=3),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: str(event.kind))
def test_an_event_comes_back_from_its_line_as_it_was(event: Event) -> None:
    record = Record(run_id="r", attempt=0, rank=0, seq=4, wall_time=1.0, event=event)
    assert decode_line(encode_record(record)) == record


def test_all_are_listed_and_only_the_flag_is_never_dropped() -> None:
    assert {type(event) for event in EVENTS} == set(DIAGNOSTIC_EVENTS) <= set(EVENT_TYPES)
    assert {event.kind for event in EVENTS} == DIAGNOSTIC_KINDS
    assert {"RedFlagRaised"} == DIAGNOSTIC_KINDS - SAMPLE_KINDS
    assert EVENTS[-1].event_class is EventClass.LIFECYCLE
