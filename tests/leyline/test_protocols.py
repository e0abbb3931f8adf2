from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import (
    Collective,
    EpochOutcome,
    EventSink,
    HostProbe,
    Notice,
    NullProbe,
    NullSink,
    SingleProcess,
)


def test_null_objects_keep_their_protocols_and_do_nothing() -> None:
    sink, probe = NullSink(), NullProbe()
    assert isinstance(sink, EventSink)
    assert isinstance(probe, HostProbe)
    sink.emit(Notice(epoch=0, text="x"))
    probe.after_backward(object(), object(), 0)
    outcome = EpochOutcome(epoch=1, train_loss=1.0, train_metric=0.5, validation_loss=1.0, metric=0.5)
    probe.after_validation(object(), object())
    probe.after_epoch(object(), outcome)
    assert probe.state() == {}
    probe.restore({})


@given(st.lists(st.floats(allow_nan=False)))
def test_a_single_process_returns_what_it_was_given(values: Sequence[float]) -> None:
    collective = SingleProcess()
    for call in (collective.all_sum, collective.all_max, collective.broadcast):
        assert call(values) == list(values)
        assert call(values) is not values


def test_a_single_process_agrees_with_itself() -> None:
    collective = SingleProcess()
    assert isinstance(collective, Collective)
    assert (collective.rank, collective.world_size) == (0, 1)
    assert collective.all_agree("anything")
    assert collective.gather_bytes(b"mine") == [b"mine"]


@pytest.mark.parametrize("kind", [EventSink, Collective])
def test_what_lacks_the_methods_is_no_implementation(kind: type[object]) -> None:
    assert not isinstance(object(), kind)
