"""Gradients: norms against a loop by hand, one read, what vanishes and explodes, and health."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.nissa.diagnostics.gradients import (
    GradientMeter,
    compute_health,
    group_by_layer,
    summarize_gradients,
)


def make_parameters(*gradients: Tensor | None) -> list[nn.Parameter]:
    """Parameters with these gradients."""
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(3) if gradient is None else torch.zeros_like(gradient))
        parameter.grad = gradient
        made.append(parameter)
    return made


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_norms_are_those_of_a_loop_by_hand(scale: float) -> None:
    meter = GradientMeter()
    batches = [{"conv": (draw(i, 4, 3), draw(9 + i, 4)), "head": (draw(20 + i, 7),)} for i in range(3)]
    for batch in batches:
        meter.add({name: make_parameters(*given) for name, given in batch.items()}, scale=scale)
    expected = dict.fromkeys(("conv", "head"), 0.0)
    for batch in batches:
        for name, gradients in batch.items():
            total = sum(float(value) ** 2 for gradient in gradients for value in gradient.flatten())
            expected[name] += scale * math.sqrt(total) / len(batches)
    assert meter.num_batches == 3
    facts = meter.read()
    assert facts.norms == pytest.approx(expected, rel=1e-5)
    assert facts.num_batches == 3
    assert meter.num_batches == 0


def test_groups_without_a_gradient_are_left_out() -> None:
    meter = GradientMeter()
    meter.add({"frozen": make_parameters(None), "alive": make_parameters(torch.ones(4), None)})
    assert meter.read().norms == {"alive": 2.0}
    meter.add({"frozen": make_parameters(None)})
    assert meter.num_batches == 0


def test_quantiles_are_of_sizes_and_exact_on_few_numbers() -> None:
    meter = GradientMeter()
    groups = {
        "a": make_parameters(torch.tensor([-4.0, 0.0, 1.0])),
        "b": make_parameters(torch.tensor([3.0, -2.0])),
    }
    meter.add(groups)
    meter.sample(groups, (0.0, 0.5, 1.0), scale=10.0)
    assert meter.read().quantiles == {0.0: 0.0, 0.5: 20.0, 1.0: 40.0}


def test_quantiles_of_many_numbers_are_close_to_those_of_all() -> None:
    meter, values = GradientMeter(), draw(3, 50_000)
    groups = {"a": make_parameters(values)}
    meter.sample(groups, (0.25, 0.75))
    meter.add(groups)
    exact = torch.quantile(values.abs(), torch.tensor([0.25, 0.75])).tolist()
    assert list(meter.read().quantiles.values()) == pytest.approx(exact, rel=0.1)


def test_what_was_collected_survives_saving_to_the_bit() -> None:
    meter, other = GradientMeter(), GradientMeter()
    for seed in range(3):
        groups = {"a": make_parameters(draw(seed, 5), draw(seed + 7, 2))}
        meter.add(groups)
        if seed == 1:
            meter.sample(groups, (0.5,))
            other.restore(*meter.state())
    other.add(groups)
    assert other.read() == meter.read()


@pytest.mark.parametrize(
    ("norms", "vanishing", "exploding"),
    [
        ([1e-8, 1e-8, 1.0], ("a",), ()),
        ([1e-8, 1.0], (), ()),
        ([0.0], ("a",), ()),
        ([1.0, 1e4], (), ("a",)),
        ([1.0, math.nan], (), ("a",)),
        ([1.0, math.inf], (), ("a",)),
        ([1.0, 999.0], (), ()),
    ],
)
def test_layers_vanish_by_majority_and_explode_at_once(
    norms: list[float], vanishing: tuple[str, ...], exploding: tuple[str, ...]
) -> None:
    facts = summarize_gradients([{"a": norm} for norm in norms], {})
    assert (facts.vanishing, facts.exploding) == (vanishing, exploding)


@pytest.mark.parametrize(
    ("norms", "num_vanishing", "num_exploding", "health"),
    [
        ([1.0, 1.0], 0, 0, 1.0),
        ([1.0, 1e-9], 1, 0, 0.8),
        ([1.0, 11.0], 0, 0, 0.9),
        ([1e-6, 1e-6], 0, 0, 0.7),
        ([150.0, 150.0], 0, 0, 0.8),
        ([1.0, 2e3], 0, 1, 1.0 - 0.3 - 0.1 - 0.2),
        ([math.inf], 0, 1, 1.0 - 0.3 - 0.1 - 0.2),
        ([math.nan], 0, 1, 1.0 - 0.3 - 0.1 - 0.2),
        ([1e-9] * 6, 6, 0, 0.0),
    ],
)
def test_health_is_the_formula_by_hand(
    norms: list[float], num_vanishing: int, num_exploding: int, health: float
) -> None:
    found = compute_health(norms, num_vanishing=num_vanishing, num_exploding=num_exploding)
    assert found == pytest.approx(health, abs=1e-12)


@given(st.lists(st.floats(min_value=0.0), min_size=1), st.integers(0, 50), st.integers(0, 50))
def test_health_is_a_fraction(norms: list[float], num_vanishing: int, num_exploding: int) -> None:
    assert 0.0 <= compute_health(norms, num_vanishing=num_vanishing, num_exploding=num_exploding) <= 1.0


def test_parameters_are_grouped_by_the_module_that_owns_them() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3, bias=False)))
    net.register_parameter("scale", nn.Parameter(torch.ones(1)))
    groups = group_by_layer(dict(net.named_parameters()))
    assert {name: len(members) for name, members in groups.items()} == {"scale": 1, "0": 2, "1.0": 1}
