"""A linear seed goes into the layer in front of it, exactly; every other stays, and says why.

Shows kasmina/affine.py (what is one linear map of the channels) as well.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import (
    MAX_DIFFERENCE,
    BlueprintRegistry,
    BlueprintSpec,
    Exported,
    Inputs,
    PointWishes,
    builtin_registry,
    count_trainable,
    export_grafted,
)
from esper.leyline import BlendForm, Layout
from kasmina.grafting import IMAGES, TOKENS, furthest, grown, grown_encoder, grown_resnet
from kasmina.growing import draw
from kasmina.strangers import Encoder, Patches, SmallResNet, build


class _Lora(nn.Module):
    """delta = scale * (h A^T) B^T by functions, as adapters are often written."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.down, self.up = (
            nn.Parameter(torch.empty(2, num_channels)),
            nn.Parameter(torch.empty(num_channels, 2)),
        )
        self.scale = 0.5

    def forward(self, h: Tensor) -> Tensor:
        return F.linear(F.linear(h, self.down), self.up) * self.scale


class _TwoPaths(nn.Module):
    """delta = A h + c - B h / 4."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.one = nn.Linear(num_channels, num_channels)
        self.other = nn.Linear(num_channels, num_channels, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.one(h) - self.other(h) / 4
        return out


class _Squaring(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * input


def _registry() -> BlueprintRegistry:
    """Return the built-ins and blueprints of users, linear ones and others."""
    registry = builtin_registry().extended()
    flat, maps = frozenset({Layout.FLAT, Layout.SEQUENCE}), frozenset({Layout.MAP_2D})
    made = (
        ("plain_lora", flat, lambda spec: _Lora(spec.num_channels)),
        ("two_paths", flat, lambda spec: _TwoPaths(spec.num_channels)),
        ("linear", flat, lambda spec: nn.Linear(spec.num_channels, spec.num_channels)),
        ("squaring", flat, lambda spec: _Squaring(spec.num_channels, spec.num_channels)),
        ("pointwise", maps, lambda spec: nn.Conv2d(spec.num_channels, spec.num_channels, 1)),
        ("grouped", maps, lambda spec: nn.Conv2d(spec.num_channels, spec.num_channels, 1, groups=2)),
        ("no_bias", maps, lambda spec: nn.Conv2d(spec.num_channels, spec.num_channels, 1, bias=False)),
        ("wide_kernel", maps, lambda spec: nn.Conv2d(spec.num_channels, spec.num_channels, 3, padding=1)),
    )
    for name, layouts, build_branch in made:
        registry.add(
            BlueprintSpec(
                id=name, family=name, layouts=layouts, build=build_branch, count_params=lambda spec: 0
            )
        )
    return registry


class _ConvNet(nn.Module):
    """One convolution of the kind under test, then a head that is not linear in it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(x)).flatten(2).mean(dim=2))
        return out


def _flat_net(body: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(OrderedDict(body=body or nn.Linear(6, 8), act=nn.ReLU(), head=nn.Linear(8, 3)))


def _export(
    host: nn.Module,
    sample: Inputs,
    blueprint: str,
    *,
    wishes: PointWishes | None = None,
    blend: BlendForm = BlendForm.ADD,
    alpha: float = 1.0,
) -> Exported:
    """Return an export that was asked to fold, checked on other inputs and against what is not folded."""
    model = grown(
        host, sample, wishes or PointWishes(at=("body",)), (blueprint,), blend=blend, registry=_registry()
    )
    for slot in model.each_slot():
        slot.set_alpha(alpha)
    exported, plain = (export_grafted(model, sample, merge=merge) for merge in (True, False))
    assert exported.largest_difference <= MAX_DIFFERENCE
    if isinstance(sample, Tensor):
        assert furthest(exported.module, plain.module, 0.5 * sample) <= MAX_DIFFERENCE
    assert (plain.merged, plain.kept) == ((), ())
    return exported


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("blueprint", ["low_rank", "plain_lora", "two_paths", "linear", "noop"])
def test_a_linear_seed_goes_into_a_linear_layer(blueprint: str, alpha: float) -> None:
    exported = _export(_flat_net(), draw(5, 6), blueprint, alpha=alpha)
    assert exported.merged == ("body",)
    assert exported.kept == ()
    assert count_trainable(exported.module) == count_trainable(_flat_net())
    _flat_net().load_state_dict(exported.module.state_dict(), strict=True)
    assert set(exported.tensors("host+extra")) == set(_flat_net().state_dict())


def test_the_folded_weights_are_those_of_the_formula() -> None:
    host = _flat_net()
    model = grown(host, draw(5, 6), PointWishes(at=("body",)), ("low_rank",))
    model.slot("body").set_alpha(0.5)
    seed, body = model.slot("body").seed, host.get_submodule("body")
    assert seed is not None
    down, up = seed.branch.get_submodule("0").weight, seed.branch.get_submodule("1").weight
    assert isinstance(down, Tensor)
    assert isinstance(up, Tensor)
    mix = torch.eye(8) + 0.5 * up @ down
    folded = export_grafted(model, draw(5, 6), merge=True).module.get_submodule("body")
    for got, was in ((folded.weight, body.weight), (folded.bias, body.bias)):
        assert isinstance(got, Tensor)
        assert isinstance(was, Tensor)
        assert torch.allclose(got, mix @ was, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(3, 8, 5, padding=2, padding_mode="reflect", dilation=1),
        nn.ConvTranspose2d(3, 8, 3, stride=2),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3)),
        nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Identity()), nn.Identity()),
    ],
)
@pytest.mark.parametrize("blueprint", ["pointwise", "grouped", "no_bias"])
def test_a_pointwise_seed_goes_into_a_convolution_of_any_kernel(body: nn.Module, blueprint: str) -> None:
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.copy_(0.2 * draw(*parameter.shape, seed=parameter.numel()))
    exported = _export(_ConvNet(copy.deepcopy(body)), draw(3, 3, 9, 9), blueprint)
    assert exported.merged == ("body",)
    assert count_trainable(exported.module) == count_trainable(_ConvNet(body))


def test_channels_may_be_last_and_layers_inside_a_host_with_control_flow() -> None:
    exported = _export(
        build(Patches), draw(2, 3, 8, 8), "pointwise", wishes=PointWishes(at=("mix",), layout="nhwc")
    )
    assert exported.merged == ("mix",)
    exported = _export(
        build(Encoder), TOKENS, "linear", wishes=PointWishes(at=("layers.*.mlp",), layout="nld")
    )
    assert exported.merged == ("layers.0.mlp", "layers.1.mlp")
    exported = _export(build(SmallResNet), IMAGES, "pointwise", wishes=PointWishes(at=("neck",)))
    assert exported.merged == ("neck",)
    build(SmallResNet).load_state_dict(exported.module.state_dict(), strict=True)


def test_two_seeds_on_one_layer_are_folded_one_after_the_other() -> None:
    body = nn.Sequential(nn.ReLU(), nn.Linear(6, 8))
    wishes = PointWishes(at=("body.1", "body"))
    assert _export(_flat_net(body), draw(5, 6), "linear", wishes=wishes).merged == ("body.1", "body")


class _Twice(nn.Module):
    """Calls its last layer a second time, outside the target."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 6)
        self.body, self.head = nn.Sequential(nn.ReLU(), self.last), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x) + self.last(x))
        return out


class _Tied(nn.Module):
    """Uses one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.other.weight = self.body.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(x)) + self.other(x))
        return out


def _hooked() -> nn.Module:
    host = _flat_net()
    host.get_submodule("body").register_forward_hook(lambda module, args, out: out.clamp(max=1.0))
    return host


@pytest.mark.parametrize(
    ("host", "sample", "blueprint", "reason"),
    [
        (_flat_net(), draw(5, 6), "mlp", "ReLU inside"),
        (_flat_net(), draw(5, 6), "norm", "LayerNorm inside"),
        (_flat_net(), draw(5, 6), "squaring", "mul() inside"),
        (
            _flat_net(nn.Sequential(nn.Linear(6, 8), nn.Tanh())),
            draw(5, 6),
            "linear",
            "the target ends in Tanh",
        ),
        (_flat_net(nn.Linear(6, 8, bias=False)), draw(5, 6), "linear", "no bias"),
        (_ConvNet(nn.Conv2d(3, 8, 1)), draw(2, 3, 5, 5), "wide_kernel", "Conv2d 3x3 inside"),
        (_ConvNet(nn.Conv2d(4, 8, 3, groups=2)), draw(2, 4, 5, 5), "pointwise", "has 2 groups"),
        (_Twice(), draw(5, 6), "linear", "is called 2 times"),
        (_Tied(), draw(5, 6), "linear", "belong to another layer"),
        (_hooked(), draw(5, 6), "linear", "a hook of yours"),
    ],
)
def test_what_is_not_exact_stays_a_graft_and_says_why(
    host: nn.Module, sample: Tensor, blueprint: str, reason: str
) -> None:
    exported = _export(host, sample, blueprint)
    assert exported.merged == ()
    assert [kept.slot for kept in exported.kept] == ["body"]
    assert reason in exported.kept[0].reason
    assert not exported.grafts[0].is_merged


@pytest.mark.parametrize(("blend", "reason"), [(BlendForm.GATE, "gate"), (BlendForm.VALVE, "valve")])
def test_a_seed_that_enters_through_a_gate_or_a_valve_stays(blend: BlendForm, reason: str) -> None:
    exported = _export(_flat_net(), draw(5, 6), "linear", blend=blend)
    assert reason in exported.kept[0].reason


def test_of_several_seeds_each_is_folded_or_told() -> None:
    exported = export_grafted(grown_resnet("bottleneck", "norm", "noop"), IMAGES, merge=True)
    assert exported.merged == ("neck",)
    assert {kept.slot: kept.reason for kept in exported.kept} == {
        "stages.0": "ReLU inside (branch.1)",
        "stages.1": "GroupNorm inside (branch.norm)",
    }
    exported = export_grafted(grown_encoder("norm"), TOKENS, merge=True)
    assert all("LayerNorm inside" in kept.reason for kept in exported.kept)


class _Reading(nn.Module):
    """Uses the weight of its layer by itself, too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(x)) + x @ self.body.weight)
        return out


def test_a_fold_into_a_weight_that_is_read_elsewhere_is_taken_back() -> None:
    model = grown(_Reading(), draw(5, 6), PointWishes(at=("body",)), ("low_rank",))
    exported = export_grafted(model, draw(5, 6), merge=True)
    assert exported.merged == ()
    assert exported.kept[0].reason == "folded, the network would differ on the sample"
    assert furthest(exported.module, model.eval(), draw(3, 6, seed=4)) <= MAX_DIFFERENCE


def test_rounding_that_shows_is_taken_back() -> None:
    host = _flat_net()
    with torch.no_grad():
        host.get_submodule("body").weight.mul_(3e4)  # type: ignore[operator]
    model = grown(host, draw(5, 6), PointWishes(at=("body",)), ("low_rank",))
    exported = export_grafted(model, draw(5, 6), merge=True)
    assert exported.merged == ()
    assert "would differ on the sample" in exported.kept[0].reason
    assert exported.largest_difference <= MAX_DIFFERENCE
