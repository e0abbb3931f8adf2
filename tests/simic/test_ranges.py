"""Refusals of settings: every bound that is stated is kept, and what is not finite is outside of all."""

from __future__ import annotations

import math

import pytest

from esper.leyline import ConfigError
from esper.simic.ranges import require, require_name


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_bounds_belong_to_the_range(value: float) -> None:
    require("part.share", value, 0, 1)


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf, -math.inf])
def test_what_is_outside_is_refused_with_name_value_and_bounds(value: float) -> None:
    with pytest.raises(ConfigError, match=r"part\.share=\S+: must be finite and >= 0 and <= 1"):
        require("part.share", value, 0, 1)


def test_an_open_bound_is_outside() -> None:
    with pytest.raises(ConfigError, match=r"must be finite and > 0$"):
        require("part.rate", 0.0, 0, is_low_open=True)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    require_name("part.kind", "linear", ("linear", "cosine"))
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        require_name("part.kind", "cosin", ("linear", "cosine"))
