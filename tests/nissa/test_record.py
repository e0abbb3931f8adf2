"""Records know their class, and the clock is one of seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime

from esper.nissa.record import wall_clock
from nissa.sample_run import decided, finished_epoch, numbered


def test_only_samples_are_samples() -> None:
    sample, decision = numbered([finished_epoch(1), decided(1, "WAIT")])
    assert sample.is_sample
    assert not decision.is_sample


def test_clock_counts_seconds_since_1970() -> None:
    before = datetime.now(UTC).timestamp()
    assert before <= wall_clock() <= datetime.now(UTC).timestamp()
