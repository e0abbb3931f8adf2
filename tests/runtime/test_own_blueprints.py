from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import SlotSpec
from esper.leyline import BlueprintContractError, ConfigError, UnknownNameError
from esper.runtime.own_blueprints import blueprint, extend_registry
from runtime.own_models import grow_net
from tolaria.loop_toys import TRAIN


def _zeroed(spec: SlotSpec) -> nn.Module:
    layer = nn.Linear(spec.num_channels, spec.num_channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_a_decorated_builder_is_a_blueprint_that_can_be_planted() -> None:
    mine = blueprint("scale", needs="flat")(_zeroed)
    grown = grow_net(blueprints=["mlp", mine])
    before = grown(TRAIN[0])
    event = grown["body"].germinate("scale")
    assert "+72 params" in str(event)
    grown["body"].blend(steps=0)
    assert torch.equal(grown(TRAIN[0]), before)


def test_a_blueprint_may_fit_several_layouts() -> None:
    mine = blueprint("scale", needs=("flat", "sequence"))(_zeroed)
    assert {layout.value for layout in mine.layouts} == {"flat", "sequence"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda spec: nn.Linear(spec.num_channels, spec.num_channels), "0 at birth|exactly 0"),
        (lambda spec: _Wrong(spec.num_channels), "shape"),
    ],
)
def test_a_builder_that_breaks_the_contract_is_refused_where_it_is_declared(
    build: object, message: str
) -> None:
    with pytest.raises(BlueprintContractError, match=message):
        blueprint("bad", needs="flat")(build)  # type: ignore[arg-type]


class _Wrong(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels + 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.layer(h)
        return out


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"needs='3d'.*2d"):
        blueprint("x", needs="3d")


def test_names_families_and_own_ones_are_offered_and_a_wrong_name_is_not() -> None:
    mine = blueprint("scale", needs="flat")(_zeroed)
    registry, names = extend_registry(["conv", mine])
    assert names == ("conv", "scale")
    assert "scale" in registry.ids
    assert extend_registry(None)[1] == ()
    with pytest.raises(UnknownNameError, match="did you mean 'conv_light'"):
        extend_registry(["conv_lihgt"])
    with pytest.raises(ConfigError, match=r"blueprints holds function: expected names.*@esper\.blueprint"):
        extend_registry([_zeroed])  # type: ignore[list-item]


def test_two_of_one_id_are_refused() -> None:
    mine = blueprint("mlp", needs="flat")(_zeroed)
    with pytest.raises(ConfigError, match="'mlp' is registered already"):
        extend_registry([mine])
