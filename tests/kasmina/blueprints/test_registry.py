from __future__ import annotations

import pytest
from torch import nn

from esper.kasmina import BlueprintRegistry, SlotSpec, builtin_registry
from esper.leyline import ConfigError, Layout, UnknownNameError
from kasmina.growing import make_spec


def test_frozen_registry_refuses_and_its_extension_takes() -> None:
    builtin = builtin_registry()
    extended = builtin.extended()

    def build(spec: SlotSpec) -> nn.Module:
        return nn.Linear(spec.num_channels, spec.num_channels)

    for registry in (builtin, extended):
        register = registry.register("mine", family="own", layouts=[Layout.FLAT], count_params=lambda spec: 0)
        if registry is builtin:
            with pytest.raises(ConfigError, match="frozen"):
                register(build)
        else:
            assert register(build) is build
    assert "mine" not in builtin.ids
    assert extended.get("mine").build is build
    assert "mine" in extended.fitting(make_spec((8,), Layout.FLAT))


def test_id_is_taken_once() -> None:
    first = builtin_registry().get("norm")
    with pytest.raises(ConfigError, match="registered already"):
        BlueprintRegistry([first, first])


def test_name_stands_for_itself_or_for_its_family() -> None:
    registry = builtin_registry()
    assert registry.members("conv") == ("conv_small", "conv_light", "conv_heavy")
    assert registry.members("norm") == ("norm",)
    with pytest.raises(UnknownNameError, match="conv_light"):
        registry.get("conv_lite")
    with pytest.raises(UnknownNameError, match="attention"):
        registry.members("atention")


def test_fitting_follows_the_layout() -> None:
    registry = builtin_registry()
    assert registry.fitting(make_spec((8,), Layout.FLAT)) == ("noop", "norm", "mlp", "mlp_small", "low_rank")
    assert "conv_light" in registry.fitting(make_spec())
