"""More units of a pair of layers as blueprints: the contract, the counts, and where they are on offer.

Shows kasmina/blueprints/pair.py as well.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import (
    SlotSpec,
    builtin_registry,
    count_flops,
    describe,
    require_contract,
)
from esper.kasmina.blueprints.pair import WidthBranch
from esper.leyline import ConfigError
from kasmina.growing import make_spec
from kasmina.widths import IMAGES, ROWS, Mlp, spanning, two_convs, two_linear

REGISTRY = builtin_registry()
BATCH = nn.BatchNorm2d(8)
PAIRS = [
    pytest.param(Mlp(), ROWS, "fc1->fc2", id="functions"),
    pytest.param(Mlp(bias=False), ROWS, "fc2->fc3", id="no bias"),
    pytest.param(two_linear(), ROWS, "0->1", id="nothing between"),
    pytest.param(two_linear(nn.BatchNorm1d(8), nn.SiLU()), ROWS, "0->3", id="batch norm of rows"),
    pytest.param(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, "0->3", id="batch norm of maps"),
    pytest.param(two_convs(nn.GroupNorm(4, 8), nn.ReLU(), stride=2), IMAGES, "0->3", id="group norm"),
    pytest.param(two_convs(nn.GELU(), nn.MaxPool2d(2), bias=True), IMAGES, "0->3", id="pooling"),
]


def _spec(host: nn.Module, sample: Tensor, at: str) -> SlotSpec:
    return spanning(host, sample, at).specs[0]


@pytest.mark.parametrize("name", ["width", "width_small"])
@pytest.mark.parametrize(("host", "sample", "at"), PAIRS)
def test_contract_is_kept_between_any_two_layers(name: str, host: nn.Module, sample: Tensor, at: str) -> None:
    report = require_contract(REGISTRY.get(name), _spec(host, sample, at))
    assert 0.0 < report.first_change <= 0.25


def test_counts_are_those_of_the_units_by_hand() -> None:
    spec = _spec(Mlp(), ROWS, "fc1->fc2")
    # Four units: 6 weights and a bias each into them, 8 weights each out of them.
    assert REGISTRY.get("width").count_params(spec) == 4 * (6 + 1 + 8)
    assert REGISTRY.get("width_small").count_params(spec) == 2 * (6 + 1 + 8)
    priced = describe(REGISTRY, spec, ["width"])["width"]
    assert (priced.num_params, priced.flops_per_item) == (60, 2 * 4 * (6 + 8))
    conv = _spec(two_convs(nn.BatchNorm2d(8), nn.ReLU()), IMAGES, "0->3")
    assert REGISTRY.get("width").count_params(conv) == 4 * (3 * 9 + 2 + 6 * 9)


def test_only_width_is_on_offer_between_two_layers_and_nowhere_else() -> None:
    assert REGISTRY.fitting(_spec(Mlp(), ROWS, "fc1->fc2")) == ("width", "width_small")
    assert not {"width", "width_small"} & set(REGISTRY.fitting(make_spec()))
    with pytest.raises(ConfigError, match="spans no two layers"):
        REGISTRY.get("width").build(make_spec())


def test_a_quarter_that_is_no_less_than_half_is_not_on_offer() -> None:
    assert REGISTRY.fitting(_spec(two_linear(nn.ReLU(), units=2), ROWS, "0->2")) == ("width",)
    one_group = _spec(two_convs(nn.GroupNorm(1, 8), nn.ReLU()), IMAGES, "0->3")
    assert REGISTRY.fitting(one_group) == ("width",)
    branch = REGISTRY.get("width").build(one_group)
    assert isinstance(branch, WidthBranch)
    assert [m.num_groups for m in branch.modules() if isinstance(m, nn.GroupNorm)] == [1]
    assert isinstance(branch.first, nn.Conv2d)
    assert branch.first.out_channels == 8


def test_branch_is_what_more_units_add_by_hand() -> None:
    spec = _spec(Mlp(), ROWS, "fc1->fc2")
    branch = REGISTRY.get("width").build(spec)
    assert isinstance(branch, WidthBranch)
    first, second = branch.first, branch.second
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    nn.init.normal_(second.weight)
    expected = torch.relu(ROWS @ first.weight.T + first.bias) @ second.weight.T
    torch.testing.assert_close(branch(ROWS), expected)


def test_flops_are_counted_on_what_the_seed_takes() -> None:
    spec = _spec(two_convs(nn.BatchNorm2d(8), nn.ReLU(), stride=2), IMAGES, "0->3")
    branch = REGISTRY.get("width").build(spec)
    assert spec.seed_shape == (3, 9, 9)
    assert spec.shape == (6, 3, 3)
    assert count_flops(branch, spec.seed_shape) == 2 * 4 * (3 * 9 * 25 + 6 * 9 * 9)


def test_channels_last_maps_go_through_linear_layers() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.down(self.act(self.up(x))).mean((1, 2)))
            return out

    sample = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    spec = _spec(Blocks(), sample, "up->down")
    assert spec.shape == spec.seed_shape == (6, 4, 5)
    require_contract(REGISTRY.get("width"), spec)
