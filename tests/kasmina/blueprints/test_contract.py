"""Every built-in blueprint keeps the contract; every kind of sickness is found and named."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import BlueprintSpec, SlotSpec, builtin_registry, check_blueprint, require_contract
from esper.kasmina.blueprints.contract import MAX_FIRST_CHANGE
from esper.leyline import BlueprintContractError, Layout
from kasmina.growing import make_spec

CHANNELS = (8, 16, 48, 64)
REGISTRY = builtin_registry()
SPECS = (
    *(make_spec((c, 6, 6)) for c in CHANNELS),
    *(make_spec((c, 1, 1)) for c in CHANNELS),
    *(make_spec((c,), Layout.FLAT) for c in CHANNELS),
    *(make_spec((7, c), Layout.SEQUENCE) for c in CHANNELS),
)
CASES = [(name, spec) for spec in SPECS for name in REGISTRY.fitting(spec)]
SPEC = make_spec((8, 4, 4))


def _conv(*, size: int = 1, is_zero: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(8, 8, size, padding=size // 2, bias=False)
    if is_zero:
        nn.init.zeros_(conv.weight)
    return conv


def _poisoned() -> nn.Module:
    conv = _conv(is_zero=True)
    with torch.no_grad():
        conv.weight[0, 0] = math.nan
    return conv


class _HiddenPoison(nn.Module):
    """Its forward is clean; a parameter that it does not use is not."""

    def __init__(self) -> None:
        super().__init__()
        self.last = _conv(is_zero=True)
        self.unused = nn.Parameter(torch.full((8,), math.inf))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h)
        return out


class _Mutating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = _conv(is_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h.add_(1.0))
        return out


class _Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = _conv(is_zero=True)
        self.idle = nn.Parameter(torch.ones(8))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h)
        return out


class _Tuple(nn.Module):
    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, h


class _FloatOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = _conv(is_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h)
        if out.dtype != torch.float32:
            raise TypeError("float32 only")
        return out


class _Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = _conv()

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h) * torch.rand(())
        return out


def _plant(build: Callable[[], nn.Module], count: int, family: str = "mine") -> BlueprintSpec:
    return BlueprintSpec(
        id="planted",
        family=family,
        layouts=frozenset({Layout.MAP_2D}),
        build=lambda spec: build(),
        count_params=lambda spec: count,
    )


@pytest.mark.parametrize(
    ("name", "spec"), CASES, ids=[f"{name}-{'x'.join(map(str, spec.shape))}" for name, spec in CASES]
)
def test_builtin_blueprint_keeps_the_contract(name: str, spec: SlotSpec) -> None:
    report = require_contract(REGISTRY.get(name), spec)
    assert report.is_kept
    assert report.first_change <= MAX_FIRST_CHANGE


def test_every_builtin_blueprint_is_covered() -> None:
    # Those between two layers need a pair of them to be built for: test_width runs the same contract there.
    spanning = {name for name in REGISTRY.ids if REGISTRY.get(name).spans_pair}
    assert spanning == set(REGISTRY.members("width")) | {"width_small"}
    assert {name for name, _ in CASES} == set(REGISTRY.ids) - spanning


@pytest.mark.battery("T50")
@pytest.mark.parametrize(
    ("build", "count", "reason"),
    [
        (
            lambda: nn.Sequential(_conv(size=3, is_zero=True), nn.GroupNorm(1, 8), nn.ReLU()),
            592,
            "no tensor has a gradient in the first step",
        ),
        (
            lambda: nn.Sequential(nn.ReLU(), _conv(is_zero=True), nn.GroupNorm(1, 8)),
            80,
            "step changes delta by",
        ),
        (lambda: nn.Conv2d(8, 4, 1, bias=False), 32, "must keep the shape"),
        (_Tuple, 0, "tuple, must keep the shape"),
        (lambda: _conv(is_zero=True), 65, "declares 65 parameters, has 64"),
        (_poisoned, 64, "delta is not finite at birth"),
        (_HiddenPoison, 72, "a parameter is not finite at birth"),
        (_Mutating, 64, "changes its input"),
        (_conv, 64, "delta is not 0 at birth"),
        (_Random, 64, "two builds from one seed differ"),
        (_Idle, 72, "no gradient in 3 steps: idle"),
        (_FloatOnly, 64, "fails under bf16 autocast"),
        (lambda: nn.Threshold(1e9, 0.0), 0, "has no trainable parameter"),
    ],
    ids=[
        "dead relu", "norm after zero", "shape", "tuple", "count", "nan", "hidden inf", "mutation",
        "not zero", "random", "idle", "no bf16", "no parameter",
    ],
)  # fmt: skip
def test_sick_blueprint_is_rejected_with_its_reason(
    build: Callable[[], nn.Module], count: int, reason: str
) -> None:
    sick = _plant(build, count)
    assert any(reason in failure for failure in check_blueprint(sick, SPEC).failures)
    with pytest.raises(BlueprintContractError, match="planted") as caught:
        require_contract(sick, SPEC)
    assert reason in str(caught.value)


def test_noop_may_have_no_parameter() -> None:
    assert check_blueprint(_plant(lambda: nn.Threshold(1e9, 0.0), 0, "noop"), SPEC).is_kept


def test_check_moves_no_random_stream() -> None:
    before = torch.get_rng_state()
    check_blueprint(REGISTRY.get("conv_light"), SPEC)
    assert torch.equal(torch.get_rng_state(), before)
