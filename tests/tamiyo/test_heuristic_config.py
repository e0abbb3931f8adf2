from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.leyline import ConfigError
from esper.tamiyo import SLOT_ORDERS, HeuristicConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience_epochs", 0),
        ("first_germination_epoch", -1),
        ("germination_interval_epochs", 0),
        ("embargo_epochs", -1),
        ("tempo_epochs", 0),
        ("cull_tempo_epochs", 0),
        ("min_incubation_epochs", 0),
        ("min_judged_epochs", 0),
        ("max_probation_epochs", 0),
        ("max_incubation_epochs", 2),
        ("latest_germination_fraction", 0.0),
        ("latest_germination_fraction", 1.01),
        ("alpha_target", 0.0),
        ("alpha_target", 1.5),
        ("cull_errors", -0.1),
        ("cull_errors", 5.1),
        ("ransomware_threshold", -1e-9),
        ("penalty_per_cull", math.inf),
        ("penalty_decay", 1.0),
        ("penalty_decay", math.nan),
        ("penalty_floor", -1.0),
        ("penalty_limit", 0.0),
        ("slot_order", "rotat"),
        ("blueprints_2d", ("norm", "norm")),
        ("blueprints_flat", ("mlp", "mlp")),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"heuristic.{name}="):
        replace(HeuristicConfig(), **{name: value})  # type: ignore[arg-type]


def test_a_misspelt_slot_order_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rotate'"):
        HeuristicConfig(slot_order="rotat")
    for order in SLOT_ORDERS:
        assert HeuristicConfig(slot_order=order).slot_order == order


def test_each_layout_has_its_rotation_and_an_unknown_one_none() -> None:
    config = HeuristicConfig(blueprints_sequence=("lora",))
    assert config.rotation_for("2d")[0] == "conv_light"
    assert config.rotation_for("sequence") == ("lora",)
    assert config.rotation_for("flat") == ("mlp", "mlp_small", "low_rank")
    assert config.rotation_for("volume") == ()
