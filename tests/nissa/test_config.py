"""Telemetry settings refuse what they cannot do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from esper.leyline import ConfigError
from esper.nissa import TelemetryConfig


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: TelemetryConfig(progress="rihc"), "did you mean 'rich'"),
        (lambda: TelemetryConfig(observations="firts"), "did you mean 'first'"),
        (lambda: TelemetryConfig(flush_interval_seconds=1.5), r"must be in \[0, 1\]"),
        (lambda: TelemetryConfig(flush_interval_seconds=math.nan), r"must be in \[0, 1\]"),
        (lambda: TelemetryConfig(max_event_file_mb=0.0), "must be >= 0.01"),
        (lambda: TelemetryConfig(max_event_file_mb=math.nan), "must be >= 0.01"),
        (lambda: TelemetryConfig(max_event_file_mb=20.0, max_events_mb=39.0), "at least twice"),
        (lambda: TelemetryConfig(max_events_mb=math.inf), "at least twice"),
        (lambda: TelemetryConfig(on_alert="mail 'me"), "No closing quotation"),
        (lambda: TelemetryConfig(alert_timeout_seconds=0.0), r"must be in \(0, 3600\]"),
        (lambda: TelemetryConfig(alert_interval_seconds=math.nan), "must be >= 0"),
        (lambda: TelemetryConfig(buffer_records=0), "must be >= 16"),
    ],
)
def test_a_value_out_of_range_is_refused(build: Callable[[], TelemetryConfig], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build()


def test_samples_wait_at_most_a_second_by_default() -> None:
    assert TelemetryConfig().flush_interval_seconds <= 1.0
