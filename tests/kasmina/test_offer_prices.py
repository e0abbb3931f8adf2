"""Descriptors carry true costs."""

from __future__ import annotations

from esper.kasmina import SlotSpec, builtin_registry, describe
from esper.leyline import Layout

SPEC = SlotSpec(slot_id="s", layout=Layout.MAP_2D, shape=(8, 4, 4), num_channels=8)


def test_costs_of_a_small_convolution_by_hand() -> None:
    priced = describe(builtin_registry(), SPEC, ["conv_small", "noop"])
    assert priced["conv_small"].num_params == 2 * 64 + 16
    assert priced["conv_small"].flops_per_item == 2 * (2 * 64 * 16)
    assert priced["noop"].num_params == 0


def test_every_fitting_blueprint_declares_its_true_count() -> None:
    registry = builtin_registry()
    for blueprint_id, descriptor in describe(registry, SPEC, registry.fitting(SPEC)).items():
        assert registry.get(blueprint_id).count_params(SPEC) == descriptor.num_params, blueprint_id
