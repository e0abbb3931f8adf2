from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import ConfigError
from esper.runtime.ranks import DistributedConfig


@pytest.mark.parametrize("name", ["init_timeout_s", "gradient_timeout_s", "control_timeout_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_timeout_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"distributed\.{name}=.*must be in \[1, "):
        replace(DistributedConfig(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heartbeat_every_s", 0.01),
        ("preempt_after_fraction", 0.0),
        ("preempt_after_fraction", 1.5),
        ("preempt_least_fraction", -0.1),
    ],
)
def test_a_fraction_or_beat_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"distributed\.{name}={value}"):
        replace(DistributedConfig(), **{name: value})  # type: ignore[arg-type]


def test_control_may_not_wait_less_than_gradients() -> None:
    with pytest.raises(ConfigError, match=r"control_timeout_s=5\.0: must be at least"):
        DistributedConfig(control_timeout_s=5.0, gradient_timeout_s=6.0)


def test_silence_is_four_beats_and_at_least_a_second() -> None:
    assert DistributedConfig(heartbeat_every_s=0.5).silence_s == 2.0
    assert DistributedConfig(heartbeat_every_s=0.05).silence_s == 1.0
