"""Which pairs of layers can take more units, shown on the sample, and which cannot, by name.

Shows kasmina/pair_probe.py and kasmina/pair_points.py as well.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina import GrowthPoint, PointWishes, find_growth_points
from esper.kasmina.blueprints.pair import PairPlan
from esper.leyline import HostError, SeedStage
from kasmina.growing import draw, grow, make_mlp, make_model
from kasmina.strangers import SmallResNet
from kasmina.widths import IMAGES, ROWS, Mlp, two_convs, two_linear

Change = Callable[["_Free", Tensor], Tensor]


class _Free(nn.Module):
    """Two layers of rows with whatever a test puts between them."""

    def __init__(self, change: Change, **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)
        self.norm: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()
        self.drop: nn.Module = nn.Identity()
        for name, part in parts.items():
            setattr(self, name, part)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.change(self, x))
        return out


def _find(host: nn.Module, sample: Tensor, *at: str) -> tuple[GrowthPoint, ...]:
    return find_growth_points(host, sample, PointWishes(at=at))


def _plan(host: nn.Module, sample: Tensor, at: str) -> PairPlan:
    plan = _find(host, sample, at)[0].point.pair
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (torch.relu, nn.ReLU),
        (F.gelu, nn.GELU),
        (F.silu, nn.SiLU),
        (torch.tanh, nn.Tanh),
        (F.leaky_relu, nn.LeakyReLU),
        (F.relu6, nn.ReLU6),
        (F.softplus, nn.Softplus),
        (lambda h: h * torch.sigmoid(h), nn.SiLU),
        (torch.relu_, nn.ReLU),
    ],
)
def test_functions_between_layers_are_told_by_their_values(
    function: Callable[[Tensor], Tensor], kind: type[nn.Module]
) -> None:
    host = _Free(lambda self, x: self.second(function(self.first(x))))
    (step,) = _plan(host, ROWS, "first->second").between
    assert type(step) is kind


def test_modules_functions_and_norms_are_followed_in_their_order() -> None:
    host = _Free(
        lambda self, x: self.second(F.relu(self.norm(F.gelu(self.first(x))))), norm=nn.BatchNorm1d(8)
    )
    plan = _plan(host, ROWS, "first -> second")
    assert [getattr(step, "path", type(step).__name__) for step in plan.between] == ["GELU", "norm", "ReLU"]
    assert (plan.first.num_in, plan.first.num_out, plan.second.num_out) == (6, 8, 5)


def test_functional_pooling_after_an_activation_is_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))
            out: Tensor = self.fc(F.relu(h).mean((2, 3)))
            return out

    kinds = [type(step).__name__ for step in _plan(Net(), IMAGES, "conv1->conv2").between]
    assert kinds == ["ReLU", "MaxPool2d"]


def _refused(change: Change, reason: str, **parts: nn.Module) -> object:
    return pytest.param(lambda: _Free(change, **parts), reason, id=reason)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        _refused(lambda self, x: self.second(F.pad(x, (1, 1)) + self.first(x)), "something else happens"),
        _refused(lambda self, x: self.second(torch.softmax(self.first(x), -1)), "an activation of your own"),
        _refused(
            lambda self, x: self.second(self.drop(self.first(x))), "'drop' .* Dropout", drop=nn.Dropout(0.1)
        ),
        _refused(
            lambda self, x: self.second(self.norm(self.first(x))), "'norm' .* LayerNorm", norm=nn.LayerNorm(8)
        ),
        _refused(lambda self, x: self.second(self.act(self.first(x))), "'act' .* weights", act=nn.PReLU()),
        _refused(
            lambda self, x: self.second(self.act(self.first(x))), "treat every unit by", act=nn.Softmax(-1)
        ),
        _refused(
            lambda self, x: (h := self.first(x), self.second(torch.relu(h)) + h[:, :5])[1], "used elsewhere"
        ),
        _refused(
            lambda self, x: self.second(torch.relu(self.first(x))) + 0 * self.second(x.repeat(1, 2)[:, :8]),
            "called 2 times",
        ),
        _refused(lambda self, x: (h := self.first(x), x.add_(1), self.second(torch.relu(h)))[2], "in place"),
        _refused(
            lambda self, x: self.first(self.second(x.repeat(1, 2)[:, :8]).repeat(1, 2)[:, :6]), "after it"
        ),
    ],
)
def test_what_would_change_old_units_is_refused_by_name(build: Callable[[], nn.Module], reason: str) -> None:
    host = build()
    if reason == "after it":
        host.head = nn.Linear(8, 3)
    with pytest.raises(HostError, match=rf"'first->second' cannot grow wider: .*{reason}"):
        _find(host, ROWS.clone(), "first->second")


def _hooked() -> nn.Module:
    host = Mlp()
    host.fc1.register_forward_pre_hook(lambda module, args: None)
    return host


def _normed() -> nn.Module:
    host = Mlp()
    nn.utils.parametrizations.weight_norm(host.fc1)
    return host


def _tied() -> nn.Module:
    host = Mlp()
    host.fc3 = nn.Linear(8, 8)
    host.fc3.weight = host.fc2.weight
    return host


def _idle() -> nn.Module:
    host = Mlp()
    host.fc1.register_module("spare", nn.Linear(8, 8))
    return host


_NORM_LAST = two_linear(nn.ReLU(), nn.BatchNorm1d(8))
_GROUPED = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten())
_MIXED = nn.Sequential(nn.Conv2d(3, 8, 9), nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("host", "sample", "at", "reason"),
    [
        (_NORM_LAST, ROWS, "0->2", "'2' is a BatchNorm1d"),
        (_GROUPED, IMAGES, "0->2", "has 2 groups"),
        (_MIXED, IMAGES, "0->2", "a Conv2d and a Linear"),
        (_hooked(), ROWS, "fc1->fc2", "a hook of yours"),
        (_normed(), ROWS, "fc1->fc2", "Linear or a Conv2d of torch"),
        (_tied(), ROWS, "fc1->fc2", "belong to another module"),
        (_idle(), ROWS, "fc1->fc1.spare", "never called"),
    ],
)
def test_kinds_groups_hooks_and_shared_weights_are_refused_by_name(
    host: nn.Module, sample: Tensor, at: str, reason: str
) -> None:
    with pytest.raises(HostError, match=rf"{at!r} cannot grow wider: .*{reason}"):
        _find(host, sample, at)


def test_a_host_of_segments_is_refused_because_its_tail_runs_alone() -> None:
    host = make_mlp()
    rows = draw(4, 6)
    paths = [path for path, module in host.named_modules() if isinstance(module, nn.Linear)]
    points = tuple(item.point for item in _find(host, rows, f"{paths[0]}->{paths[1]}"))
    with pytest.raises(HostError, match="declares segments"):
        make_model(host, sample=rows, points=points)


def test_no_seed_may_stand_on_the_units_that_become_more() -> None:
    for path in ("fc1",):
        with pytest.raises(HostError, match=f"'{path}' returns the units that 'fc1->fc2' makes more of"):
            _find(Mlp(), ROWS, "fc1->fc2", path)
    with pytest.raises(HostError, match="'1' returns the units"):
        _find(two_linear(nn.ReLU()), ROWS, "0->2", "1")
    both = _find(Mlp(), ROWS, "fc2", "fc1->fc2")
    assert [item.point.slot_id for item in both] == ["fc1->fc2", "fc2"]


def test_globs_name_layers_that_follow_each_other() -> None:
    images = draw(2, 3, 16, 16)
    found = _find(SmallResNet().eval(), images, "stages.**.conv1->stages.**.conv2")
    assert [item.point.slot_id for item in found] == [
        f"stages.{stage}.{block}.conv1->stages.{stage}.{block}.conv2" for stage in (0, 1) for block in (0, 1)
    ]
    assert all(item.reason.startswith("asked for by") for item in found)
    with pytest.raises(HostError, match="fits no module"):
        _find(SmallResNet(), images, "stages.**.conv7->fc")
    with pytest.raises(HostError, match=r"the next Linear or Conv2d.*fc1->fc2"):
        _find(Mlp(), ROWS, "fc1->fc[34]")


def test_pairs_are_proposed_when_asked_for_and_not_otherwise() -> None:
    images = draw(2, 3, 16, 16)
    host = SmallResNet()
    plain = find_growth_points(host, images, PointWishes())
    wide = find_growth_points(host, images, PointWishes(has_width=True))
    assert [item for item in wide if item.point.pair is None] == list(plain)
    pairs = [item for item in wide if item.point.pair is not None]
    assert pairs
    assert all("units between them" in item.reason for item in pairs)
    make_model(host, sample=images, points=tuple(item.point for item in wide))


def test_looking_for_pairs_leaves_the_host_as_it_is() -> None:
    host = two_convs(nn.BatchNorm2d(8), nn.ReLU(inplace=True)).train()
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    state = torch.get_rng_state()
    _find(host, IMAGES, "0->3")
    assert all(torch.equal(before[name], tensor) for name, tensor in host.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in host.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


def test_second_layer_without_the_first_is_an_error_that_names_both() -> None:
    host = _Free(lambda self, x: self.second(torch.relu(self.first(x))))
    model = make_model(host, sample=ROWS, points=tuple(i.point for i in _find(host, ROWS, "first->second")))
    grow(model, "first->second", SeedStage.BLENDING, blueprint="width")
    model.slot("first->second").set_alpha(0.5)
    model(ROWS)
    host.change = lambda self, x: self.second(x.repeat(1, 2)[:, :8])
    with pytest.raises(HostError, match="'second' ran without 'first' before it"):
        model(ROWS)
