"""What kasmina/blueprints/spec.py, registry.py, shared.py and contract.py refuse, each with its reason."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import (
    BlueprintRegistry,
    BlueprintSpec,
    SlotSpec,
    builtin_registry,
    check_blueprint,
    require_contract,
)
from esper.kasmina.blueprints.contract import compute_first_change
from esper.kasmina.blueprints.shared import GatedNorm, has_values_to_normalise
from esper.leyline import BLUEPRINT_FAMILIES, BlueprintContractError, ConfigError, Layout
from kasmina.growing import draw, make_spec


def _zero_linear(width: int) -> nn.Linear:
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return last


def _make_blueprint(**changes: object) -> BlueprintSpec:
    plain = BlueprintSpec(
        id="mine",
        family="mine",
        layouts=frozenset({Layout.FLAT}),
        build=lambda spec: _zero_linear(spec.num_channels),
        count_params=lambda spec: spec.num_channels * (spec.num_channels + 1),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "shape", "channels", "reason"),
    [
        (Layout.MAP_2D, (8, 4), 8, "needs 3 sizes"),
        (Layout.SEQUENCE, (8,), 8, "needs 2 sizes"),
        (Layout.FLAT, (8, 1), 8, "needs 1 sizes"),
        (Layout.MAP_2D, (8, 0, 4), 8, "sizes >= 1"),
        (Layout.MAP_2D, (8, 4, 4), 4, "num_channels=4"),
        (Layout.SEQUENCE, (8, 4), 8, "num_channels=8"),
        (Layout.FLAT, (8,), 9, "num_channels=9"),
    ],
)
def test_contradictory_slot_is_refused(
    layout: Layout, shape: tuple[int, ...], channels: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        SlotSpec(slot_id="here", layout=layout, shape=shape, num_channels=channels)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "neither may be empty"),
        ({"family": ""}, "neither may be empty"),
        ({"layouts": frozenset()}, "names no layout"),
        ({"version": 0}, "version=0"),
    ],
)
def test_unusable_recipe_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        _make_blueprint(**changes)


def test_builtin_families_are_reserved_ones() -> None:
    registry = builtin_registry()
    assert {registry.get(name).family for name in registry.ids} <= set(BLUEPRINT_FAMILIES)


def test_id_that_stands_for_a_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="stands for conv_small, conv_light, conv_heavy"):
        builtin_registry().extended().add(_make_blueprint(id="conv", family="conv"))


def test_family_that_is_the_id_of_a_stranger_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="family 'conv_light' is the id of a blueprint of the family 'conv'"
    ):
        builtin_registry().extended().add(_make_blueprint(family="conv_light"))


def test_family_may_carry_the_name_of_its_first_member() -> None:
    registry = BlueprintRegistry([_make_blueprint(), _make_blueprint(id="mine_too")])
    assert registry.ids == ("mine", "mine_too")
    assert registry.members("mine") == ("mine",)


def test_decorator_takes_a_version_and_a_condition() -> None:
    registry = BlueprintRegistry()

    @registry.register(
        "wide",
        family="mine",
        layouts=[Layout.FLAT],
        count_params=lambda spec: spec.num_channels * (spec.num_channels + 1),
        version=2,
        accepts=lambda spec: spec.num_channels >= 8,
    )
    def build(spec: SlotSpec) -> nn.Module:
        return _zero_linear(spec.num_channels)

    assert registry.get("wide").version == 2
    assert registry.get("wide").build is build
    assert registry.fitting(make_spec((8,), Layout.FLAT)) == ("wide",)
    assert registry.fitting(make_spec((7,), Layout.FLAT)) == ()


@pytest.mark.parametrize(
    ("spec", "is_enough"),
    [
        (make_spec((3, 1, 1)), False),
        (make_spec((1, 2, 2)), True),
        (make_spec((4, 1, 1)), True),
        (make_spec((3,), Layout.FLAT), False),
        (make_spec((4,), Layout.FLAT), True),
        (make_spec((9, 3), Layout.SEQUENCE), False),
    ],
)
def test_a_norm_needs_four_values(spec: SlotSpec, is_enough: bool) -> None:
    assert has_values_to_normalise(spec) is is_enough
    assert ("norm" in builtin_registry().fitting(spec)) is is_enough


def test_a_map_too_small_for_a_norm_takes_the_seeds_that_need_none() -> None:
    assert builtin_registry().fitting(make_spec((2, 1, 1))) == ("noop", "attention", "bottleneck")


def test_norm_follows_the_layout() -> None:
    build = builtin_registry().get("norm").build
    on_map, flat = build(make_spec((8, 3, 3))), build(make_spec((8,), Layout.FLAT))
    assert isinstance(on_map, GatedNorm)
    assert isinstance(flat, GatedNorm)
    assert (type(on_map.norm), type(flat.norm)) == (nn.GroupNorm, nn.LayerNorm)


def test_slot_of_another_layout_fails_the_contract() -> None:
    with pytest.raises(BlueprintContractError, match=r"does not fit '2d'.*layouts: flat"):
        require_contract(_make_blueprint(), make_spec((8, 4, 4)))


class _LateWeights(nn.Module):
    """Two builds from one seed differ in weights while delta is 0 in both."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = _zero_linear(8)
        with torch.no_grad():
            self.first.weight.copy_(torch.randn(8, 8, generator=generator))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(h)))
        return out


@pytest.mark.battery("T50")
def test_weights_that_do_not_follow_the_seed_are_found_behind_a_delta_of_zero() -> None:
    ambient = torch.Generator().manual_seed(1)
    sick = _make_blueprint(build=lambda spec: _LateWeights(ambient), count_params=lambda spec: 144)
    report = check_blueprint(sick, make_spec((8,), Layout.FLAT))
    assert report.failures == ("two builds from one seed differ",)


class _RootOfZero(nn.Module):
    """delta is 0 and finite; the derivative of the root at 0 is not."""

    def __init__(self) -> None:
        super().__init__()
        self.last = _zero_linear(8)

    def forward(self, h: Tensor) -> Tensor:
        return torch.sqrt(self.last(h))


def test_gradient_that_is_not_finite_is_named() -> None:
    sick = _make_blueprint(build=lambda spec: _RootOfZero())
    (failure,) = check_blueprint(sick, make_spec((8,), Layout.FLAT)).failures
    assert failure == "the gradient in step 1 is not finite: last.weight, last.bias"


class _Detached(nn.Module):
    """Its output does not depend on its parameter in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.last = _zero_linear(8)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h)
        return out.detach()


def test_branch_outside_the_graph_never_learns() -> None:
    sick = _make_blueprint(build=lambda spec: _Detached())
    (failure,) = check_blueprint(sick, make_spec((8,), Layout.FLAT)).failures
    assert "it will never learn" in failure


class _Overflowing(nn.Module):
    """Finite in float32, infinite as soon as the type is narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.last = _zero_linear(8)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h)
        return out if out.dtype == torch.float32 else out + torch.inf


def test_output_that_is_not_finite_in_bf16_is_found() -> None:
    sick = _make_blueprint(build=lambda spec: _Overflowing())
    (failure,) = check_blueprint(sick, make_spec((8,), Layout.FLAT)).failures
    assert failure.startswith("is not finite under bf16 autocast")


def test_dropout_inside_is_allowed_and_the_report_repeats() -> None:
    def build(spec: SlotSpec) -> nn.Module:
        width = spec.num_channels
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5), _zero_linear(width))

    blueprint = _make_blueprint(build=build, count_params=lambda spec: 144)
    before = torch.get_rng_state()
    first = require_contract(blueprint, make_spec((8,), Layout.FLAT))
    torch.rand(5)
    assert require_contract(blueprint, make_spec((8,), Layout.FLAT)) == first
    torch.set_rng_state(before)
    check_blueprint(blueprint, make_spec((8,), Layout.FLAT))
    assert torch.equal(torch.get_rng_state(), before)


def test_first_change_of_one_sgd_step_is_the_step_of_the_last_map() -> None:
    branch, h = _zero_linear(4), draw(16, 4)
    change = compute_first_change(branch, h, "sgd")
    moved = (h @ branch.weight.T + branch.bias).detach()
    assert change == pytest.approx(float(moved.norm() / h.norm()))
    assert change > 0.0
