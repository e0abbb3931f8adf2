"""Claims about features of fresh branches: none is fooled by noise, each finds what it could do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import SlotSpec, build_seeded, builtin_registry
from esper.leyline import Layout
from esper.tolaria.scores import compute_energy, compute_share
from esper.tolaria.scoring_features import extract_regression
from esper.tolaria.scoring_ridge import Regression

MAP = SlotSpec(slot_id="block1", layout=Layout.MAP_2D, shape=(8, 4, 4), num_channels=8)
FLAT = SlotSpec(slot_id="hidden1", layout=Layout.FLAT, shape=(16,), num_channels=16)
REGISTRY = builtin_registry()
UNSCORED = ("noop", "norm")
SCORED = [(spec, name) for spec in (MAP, FLAT) for name in REGISTRY.fitting(spec) if name not in UNSCORED]
NUM_SAMPLES = 2048
PLANTED = 0.2


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(spec: SlotSpec, name: str) -> nn.Module:
    return build_seeded(lambda: REGISTRY.get(name).build(spec), 3)


def extract(branch: nn.Module, features: Tensor, gradient: Tensor) -> Regression:
    regression = extract_regression(branch, features, gradient)
    assert regression is not None
    return regression


def share_of(spec: SlotSpec, name: str, features: Tensor, gradient: Tensor) -> float:
    return compute_share(extract(build(spec, name), features, gradient), compute_energy(gradient))


def zero_layer_of(branch: nn.Module) -> nn.Linear | nn.Conv2d:
    layers = [layer for layer in branch.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]


@pytest.mark.parametrize(("spec", "name"), SCORED, ids=lambda value: str(getattr(value, "layout", value)))
def test_pure_noise_is_worth_nothing_to_any_blueprint(spec: SlotSpec, name: str) -> None:
    features = torch.relu(draw(NUM_SAMPLES, *spec.shape, seed=1))
    gradient = draw(NUM_SAMPLES, *spec.shape, seed=2)
    assert abs(share_of(spec, name, features, gradient)) < 0.02


@pytest.mark.parametrize(("spec", "name"), SCORED, ids=lambda value: str(getattr(value, "layout", value)))
def test_a_planted_signal_is_recovered_by_the_blueprint_that_can_make_it(spec: SlotSpec, name: str) -> None:
    features = torch.relu(draw(NUM_SAMPLES, *spec.shape, seed=1))
    teacher = build(spec, name)
    layer = zero_layer_of(teacher)
    # Small, so that what follows the layer stays linear; the size is set below.
    layer.weight.data = 1e-3 * draw(*layer.weight.shape, seed=4)
    with torch.no_grad():
        signal: Tensor = teacher(features)
    noise = draw(NUM_SAMPLES, *spec.shape, seed=5)
    signal = signal * (PLANTED / compute_energy(signal)) ** 0.5
    gradient = signal + noise * ((1.0 - PLANTED) / compute_energy(noise)) ** 0.5
    assert share_of(spec, name, features, gradient) == pytest.approx(PLANTED, abs=0.02)


@pytest.mark.parametrize("name", UNSCORED)
def test_a_blueprint_without_a_zero_layer_is_not_answered(name: str) -> None:
    features = draw(8, *MAP.shape, seed=1)
    assert extract_regression(build(MAP, name), features, features) is None


def test_rows_are_what_arrives_at_the_zero_layer_and_a_constant_for_its_bias() -> None:
    features, gradient = draw(8, 16, seed=1), draw(8, 16, seed=2)
    branch = build(FLAT, "mlp_small")
    regression = extract(branch, features, gradient)
    first = next(layer for layer in branch.modules() if isinstance(layer, nn.Linear))
    hidden = torch.relu(first(features))
    assert torch.equal(regression.rows, torch.cat([hidden, torch.ones(8, 1)], dim=1).unsqueeze(1))
    assert torch.equal(regression.targets, gradient.unsqueeze(1))
    assert regression.weights is None


def test_attention_is_weighted_by_how_its_scale_enters() -> None:
    features, gradient = draw(8, *MAP.shape, seed=1), draw(8, *MAP.shape, seed=2)
    regression = extract(build(MAP, "attention"), features, gradient)
    assert regression.rows.shape == (8, 1, 3)
    assert regression.weights is not None
    torch.testing.assert_close(regression.weights[:, 0], features.square().sum(dim=(2, 3)))
    torch.testing.assert_close(regression.targets[:, 0], (features * gradient).sum(dim=(2, 3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(8, 8, 3, padding=1, bias=False),
        lambda: nn.Conv2d(8, 8, 3, padding="same", dilation=2, bias=True),
        lambda: nn.Conv2d(8, 8, 1, bias=True),
    ],
)
def test_a_larger_zero_kernel_sees_unfolded_patches(make: Callable[[], nn.Conv2d]) -> None:
    features, gradient = draw(6, *MAP.shape, seed=1), draw(6, *MAP.shape, seed=2)
    layer = build_seeded(make, 1)
    weights = [parameter.detach().clone() for parameter in layer.parameters()]
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    rows = extract(nn.Sequential(layer), features, gradient).rows
    flat = torch.cat([weight.reshape(8, -1) for weight in weights], dim=1)  # the bias stands last
    for parameter, weight in zip(layer.parameters(), weights, strict=True):
        parameter.data = weight
    with torch.no_grad():
        expected = layer(features).flatten(2).transpose(1, 2)
    torch.testing.assert_close(rows @ flat.T, expected, atol=1e-5, rtol=1e-4)


class Behind(nn.Module):
    """A zero layer on the channels of a map, with something behind it."""

    def __init__(self, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        self.behind = behind

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, 8, H, W] to the same shape."""
        return self.behind(self.layer(h))


def test_a_scale_behind_the_zero_layer_changes_no_gain() -> None:
    features, gradient = draw(64, *MAP.shape, seed=1), draw(64, *MAP.shape, seed=2)
    plain = extract(Behind(lambda y: y), features, gradient)
    scaled = extract(Behind(lambda y: torch.tanh(3.0 * y)), features, gradient)
    assert plain.weights is None
    assert scaled.weights is not None
    energy = compute_energy(gradient)
    assert compute_share(scaled, energy) == pytest.approx(compute_share(plain, energy), abs=1e-5)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(lambda y: y.flip(1) + y, id="mixes channels"),
        pytest.param(lambda y: y - y.mean(dim=0), id="mixes samples"),
        pytest.param(lambda y: y.square(), id="has no slope at 0"),
        pytest.param(torch.zeros_like, id="does not use it"),
    ],
)
def test_what_no_regression_per_channel_describes_is_not_answered(
    behind: Callable[[Tensor], Tensor],
) -> None:
    features = draw(8, *MAP.shape, seed=1)
    assert extract_regression(Behind(behind), features, features) is None


class Odd(nn.Module):
    """Zero layers that no score is defined for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Conv2d(8, 8, 1, groups=8 if kind == "groups" else 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        self.flat = nn.Linear(8, 8, bias=False)
        nn.init.zeros_(self.flat.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, 8, H, W] to the same shape."""
        if self.kind == "twice":
            out: Tensor = self.layer(h + self.layer(h))
            return out
        if self.kind == "no batch":
            rows = h.flatten(2).transpose(1, 2).flatten(0, 1)
            mixed: Tensor = self.flat(rows)
            return mixed.reshape(h.shape[0], -1, 8).transpose(1, 2).reshape(h.shape)
        grouped: Tensor = self.layer(h)
        return grouped


@pytest.mark.parametrize("kind", ["groups", "twice", "no batch"])
def test_an_odd_zero_layer_is_not_answered(kind: str) -> None:
    features = draw(8, *MAP.shape, seed=1)
    assert extract_regression(Odd(kind), features, features) is None


def test_a_batch_norm_in_a_branch_normalises_by_the_batch() -> None:
    features = 5.0 + 3.0 * draw(64, *MAP.shape, seed=1)
    branch = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False))
    nn.init.zeros_(zero_layer_of(branch).weight)
    rows = extract(branch, features, features).rows
    assert float(rows.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(rows.std()) == pytest.approx(1.0, abs=1e-3)
