"""Profiles: from the least to the most; an escalation ends whatever the flags do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.nissa import (
    EVERY_BATCH,
    PROFILE_NAMES,
    PROFILES,
    RAISED,
    Escalation,
    Profile,
    is_batch_measured,
)


def amounts(profile: Profile) -> tuple[float, ...]:
    """What a profile measures, each number growing with it."""
    rate = 1 / profile.sharpness_every if profile.sharpness_every else 0.0
    return (
        profile.history_epochs,
        profile.gradient_batches,
        len(profile.quantiles),
        profile.has_weights,
        profile.has_ranks,
        profile.has_classes,
        profile.has_confusion,
        rate * profile.sharpness_draws * profile.sharpness_items,
        profile.isolation_items,
    )


def test_each_profile_measures_what_the_one_before_it_does_and_more() -> None:
    assert PROFILE_NAMES == ("minimal", "standard", "diagnostic", "research")
    ordered = [amounts(PROFILES[name]) for name in PROFILE_NAMES]
    for less, more in pairwise(ordered):
        assert all(low <= high for low, high in zip(less, more, strict=True))
        assert less != more
    assert not any(amounts(PROFILES["minimal"]))


@given(st.integers(1, 200), st.integers(0, 300))
def test_as_many_batches_as_asked_for_are_measured_and_the_last_one_is_among_them(
    num_batches: int, wanted: int
) -> None:
    measured = [batch for batch in range(num_batches) if is_batch_measured(batch, num_batches, wanted)]
    assert len(measured) == min(wanted, num_batches)
    assert not measured or measured[-1] == num_batches - 1
    assert all(is_batch_measured(batch, num_batches, EVERY_BATCH) for batch in range(num_batches))


def test_a_flag_raises_the_profile_for_so_many_epochs_and_no_longer() -> None:
    escalation = Escalation(PROFILES["standard"], 3)
    seen = []
    for _ in range(12):  # a flag in every epoch
        seen.append((escalation.profile.name, escalation.end_epoch(has_new_flag=True)))
    one = [("standard", 3), ("diagnostic", 0), ("diagnostic", 0), ("diagnostic", 0)]
    assert seen == one * 3


@pytest.mark.parametrize(("name", "epochs"), [("standard", 0), ("diagnostic", 5), ("research", 5)])
def test_nothing_is_raised_that_is_high_enough_or_when_it_is_switched_off(name: str, epochs: int) -> None:
    escalation = Escalation(PROFILES[name], epochs)
    assert escalation.end_epoch(has_new_flag=True) == 0
    assert escalation.profile is PROFILES[name]


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 6))
def test_an_escalation_is_counted_down_every_epoch(flags: list[bool], length: int) -> None:
    escalation = Escalation(PROFILES["minimal"], length)
    for has_flag in flags:
        before = escalation.epochs_left
        escalation.end_epoch(has_new_flag=has_flag)
        expected = before - 1 if before else length * has_flag
        assert escalation.epochs_left == expected
        assert (escalation.profile is RAISED) == (expected > 0)
