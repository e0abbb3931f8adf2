"""The first difference between two streams of events: which event, which quantity, both values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import DecisionMade, Event, Notice, RunFinished, StageChanged
from esper.runtime.event_comparison import Comparison, Difference, find_difference
from nissa.sample_run import decided, finished_epoch, moved

START = Notice(epoch=0, text="start")
EPOCH = finished_epoch(3)


def test_equal_events_have_no_difference_whatever_the_clock_says() -> None:
    assert find_difference(EPOCH, replace(EPOCH, seconds=99.0)) is None


def test_nan_equals_nan_and_nothing_else() -> None:
    sick = replace(EPOCH, train_loss=math.nan)
    assert find_difference(sick, replace(EPOCH, train_loss=math.nan)) is None
    found = find_difference(sick, EPOCH)
    assert found is not None
    assert (found.quantity, found.replayed) == ("train_loss", EPOCH.train_loss)
    assert find_difference(EPOCH, sick) is not None


@pytest.mark.parametrize(
    ("other", "quantity", "recorded", "replayed"),
    [
        (replace(EPOCH, validation_loss=0.5), "validation_loss", EPOCH.validation_loss, 0.5),
        (replace(EPOCH, total_params=7), "total_params", EPOCH.total_params, 7),
        (replace(EPOCH, raw_metrics={}), "raw_metrics/accuracy", EPOCH.raw_metrics["accuracy"], None),
        (replace(EPOCH, flops={**EPOCH.flops, "zeta": 1}), "flops/zeta", None, 1),
        (moved(3, "block1", "DORMANT", "GERMINATED", "s"), "event", "EpochCompleted", "StageChanged block1"),
    ],
)
def test_the_differing_quantity_is_named_with_both_values(
    other: Event, quantity: str, recorded: float | str | None, replayed: float | str | None
) -> None:
    expected = Difference(epoch=3, quantity=quantity, recorded=recorded, replayed=replayed)
    assert find_difference(EPOCH, other) == expected


def test_a_quantity_of_another_event_carries_its_kind_and_slot() -> None:
    old = moved(2, "block1", "TRAINING", "BLENDING", "block1#1")
    assert isinstance(old, StageChanged)
    found = find_difference(old, replace(old, new="CULLED"))
    assert found is not None
    assert found.quantity == "StageChanged block1: new"


def test_of_a_decision_only_its_fate_is_compared() -> None:
    old = decided(2, "CULL", "block1")
    assert isinstance(old, DecisionMade)
    assert find_difference(old, replace(old, reason="on record", confidence=1.0, curve="linear")) is None
    found = find_difference(old, replace(old, refusal="too young"))
    assert found is not None
    assert found.text == (
        "differs at epoch 2: DecisionMade block1: refusal is nothing on record, too young in the replay"
    )


@pytest.mark.parametrize(
    ("recorded", "replayed", "ending"),
    [(2.0, 1.0, " (relative difference 5.0e-01)"), (2, 1, ""), (math.inf, 1.0, ""), (0.0, 1.0, " 1.0e+00)")],
)
def test_the_text_says_how_far_two_numbers_are_apart(recorded: float, replayed: float, ending: str) -> None:
    text = Difference(epoch=1, quantity="x", recorded=recorded, replayed=replayed).text
    assert text.startswith(f"differs at epoch 1: x is {recorded} on record, {replayed} in the replay")
    assert text.endswith(ending)


def test_the_first_difference_stays() -> None:
    told: list[int] = []
    comparison = Comparison([START, EPOCH, finished_epoch(4)], told.append)
    comparison.emit(START)
    comparison.emit(replace(EPOCH, metric=0.0))
    comparison.emit(replace(EPOCH, total_params=0))
    assert comparison.difference is not None
    assert comparison.difference.quantity == "metric"
    assert not comparison.is_open
    assert comparison.next_decision is None
    assert (comparison.num_epochs, told) == (0, [])


def test_what_comes_after_the_record_is_not_compared() -> None:
    comparison = Comparison([EPOCH])
    for event in (EPOCH, START):
        comparison.emit(event)
    assert comparison.difference is None
    assert comparison.num_epochs == 3
    assert (comparison.is_open, comparison.is_result_compared) == (False, False)


def test_decisions_are_handed_out_in_their_place_and_counted() -> None:
    choice, end = decided(2, "WAIT"), RunFinished(epoch=3, reason="horizon")
    told: list[int] = []
    comparison = Comparison([START, choice, EPOCH, end], told.append)
    offered = []
    for event in (START, choice, EPOCH, end):
        offered.append(comparison.next_decision)
        comparison.emit(event)
    assert offered == [None, choice, None, None]
    assert told == [3]
    assert comparison.difference is None
    assert (comparison.num_decisions, comparison.is_result_compared) == (1, True)


def test_a_decision_in_its_place_or_the_end_of_the_record_is_no_difference() -> None:
    for recorded in ([decided(2, "WAIT")], []):
        comparison = Comparison(recorded)
        comparison.expect_decision(2)
        assert comparison.difference is None


def test_a_record_that_goes_on_with_something_else_than_a_decision_differs() -> None:
    comparison = Comparison([moved(2, "block1", "CULLED", "EMBARGOED", None)])
    comparison.expect_decision(2)
    assert comparison.difference == Difference(
        epoch=2, quantity="event", recorded="StageChanged block1", replayed="the next decision"
    )
