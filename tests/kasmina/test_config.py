from __future__ import annotations

import math

import pytest

from esper.kasmina import INCUBATION_NAMES, GateConfig, LifecycleConfig
from esper.kasmina.config import require_range
from esper.leyline import ConfigError


@pytest.mark.parametrize("name", INCUBATION_NAMES)
def test_every_incubation_name_is_accepted(name: str) -> None:
    assert LifecycleConfig(incubation=name).incubation == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_incubation_epochs", 0),
        ("min_probation_epochs", 0),
        ("min_measurements", 0),
        ("min_gradient_ratio", 1.1),
        ("max_metric_drop", -0.1),
        ("keep_errors", 6.0),
        ("keep_threshold", math.nan),
        ("max_contribution_age_epochs", -1),
    ],
)
def test_gate_setting_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"gates\.{field}="):
        GateConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("residual_scale", 0.0),
        ("residual_weight", math.inf),
        ("embargo_epochs", -1),
        ("reset_epochs", -1),
        ("min_cull_age_epochs", -1),
        ("probation_timeout_epochs", 0),
        ("max_live_seeds", 0),
        ("max_added_params_fraction", -0.5),
        ("incubation", "shadows"),
    ],
)
def test_lifecycle_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"lifecycle\.{field}="):
        LifecycleConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_range_refuses_what_is_outside_or_not_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"a\.b=.*in \[0, 1\]"):
        require_range("a", "b", value, 0, 1)


def test_optional_limits_may_be_set() -> None:
    config = LifecycleConfig(max_live_seeds=1, probation_timeout_epochs=1, max_added_params_fraction=0.5)
    assert (config.max_live_seeds, config.max_added_params_fraction) == (1, 0.5)
    require_range("a", "b", 1e300, 0, math.inf)
