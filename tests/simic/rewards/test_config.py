"""Settings of the reward are checked when they are built."""

from __future__ import annotations

import math
import re

import pytest

from esper.leyline import ConfigError
from esper.simic.rewards.config import LossRewardConfig, RewardConfig, parse_extra_term


def test_an_unknown_mode_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"reward\.mode='spars': did you mean 'sparse'"):
        RewardConfig(mode="spars")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 0.0),
        ("scale", math.nan),
        ("bound", -1.0),
        ("lambda_p", -0.1),
        ("lambda_f", math.inf),
        ("lead_bound", 0.0),
        ("rent_bound", 0.0),
        ("failure_price", -1.0),
        ("shaping_weight", math.nan),
        ("contribution_weight", -1.0),
        ("contribution_bound", 0.0),
        ("contribution_errors", 5.5),
        ("intervention_price", -1.0),
        ("young_cull_price", -1.0),
        ("indecision_price", -1.0),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.{field}={value}: must be finite and in"):
        RewardConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["young_cull_epochs", "indecision_patience_epochs"])
def test_negative_ages_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.{field}=-1"):
        RewardConfig(**{field: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "a:B", "=1", " =1", "a:B=", "a:B=x", "a:B=0", "a:B=-1", "a:B=nan", "a:B=inf", "a:B=1e7"]
)
def test_a_term_without_reference_or_weight_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"reward.extra_terms={text!r}: expected package.module")):
        RewardConfig(extra_terms=("a:B=0.5", text))


def test_a_term_is_read_as_reference_and_weight() -> None:
    assert parse_extra_term("my.terms:First=0.5") == ("my.terms:First", 0.5)
    assert parse_extra_term("my.terms:First = 2") == ("my.terms:First", 2.0)


def test_settings_of_the_loss_mode_are_checked_too() -> None:
    for wrong in ({"weight": 0.0}, {"bound": 0.5}, {"grace_epochs": -1}):
        with pytest.raises(ConfigError, match=r"reward\.loss\."):
            LossRewardConfig(**wrong)
