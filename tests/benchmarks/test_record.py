"""Jumps of the loss, from curves written by hand."""

from __future__ import annotations

import math

import pytest
from growth.record import BrokenRunError, Point, Trace, compute_loss_jump, require_finite


def make_points(*pairs: tuple[float, bool]) -> list[Point]:
    return [
        Point(flops=index, metric=0.5, loss=loss, is_changed=is_changed)
        for index, (loss, is_changed) in enumerate(pairs)
    ]


def test_only_epochs_with_a_change_count() -> None:
    # The rise from 1 to 3 has no change in it, that from 2 to 2.5 has.
    points = make_points((1.0, False), (3.0, False), (2.0, True), (2.5, True))
    assert compute_loss_jump(points) == pytest.approx(0.25)


def test_a_change_without_a_rise_is_a_jump_of_zero_and_none_is_none() -> None:
    assert compute_loss_jump(make_points((2.0, False), (1.0, True))) == 0.0
    assert compute_loss_jump(make_points((2.0, False), (3.0, False))) is None
    assert compute_loss_jump(make_points((2.0, True))) is None


def test_the_largest_rise_by_a_change_alone_is_kept() -> None:
    trace = Trace()
    assert trace.describe()["change_jump"] is None
    for before, after in ((2.0, 1.0), (2.0, 2.2), (2.0, 2.1)):
        trace.note_jump(before, after)
    assert trace.change_jump == pytest.approx(0.1)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(loss: float) -> None:
    with pytest.raises(BrokenRunError, match="after epoch 3"):
        require_finite(loss, 3)
