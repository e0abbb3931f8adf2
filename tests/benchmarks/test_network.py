"""Sizes of the shared network against independent counts, and seeds that change nothing at birth."""

from __future__ import annotations

import pytest
import torch
from growth.network import (
    BLUEPRINTS,
    PlainMLP,
    build_registry,
    count_full_params,
    count_params,
    match_width,
)
from growth.network import count_flops as count_by_formula

from esper.kasmina import SlotSpec, count_flops
from esper.leyline import Layout

SHAPES = [(4, (2, 2), 3), (40, (16, 16, 16), 10), (7, (5,), 2), (3, (4, 6, 2), 5)]


@pytest.mark.parametrize(("num_inputs", "hidden", "num_outputs"), SHAPES)
def test_counts_are_those_of_the_built_network(
    num_inputs: int, hidden: tuple[int, ...], num_outputs: int
) -> None:
    model = PlainMLP(num_inputs, hidden, num_outputs)
    assert count_params(num_inputs, hidden, num_outputs) == sum(p.numel() for p in model.parameters())
    assert count_by_formula(num_inputs, hidden, num_outputs) == count_flops(model, (num_inputs,))


def test_hand_counts_of_a_tiny_network() -> None:
    # Weights 4 x 2, 2 x 2, 2 x 3 and biases 2, 2, 3.
    assert count_params(4, (2, 2), 3) == 8 + 4 + 6 + 7
    assert count_by_formula(4, (2, 2), 3) == 2 * (8 + 4 + 6)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_seed_is_zero_at_birth_has_its_count_and_can_learn(name: str) -> None:
    blueprint = build_registry().get(name)
    spec = SlotSpec(slot_id="hidden1", layout=Layout.FLAT, shape=(6,), num_channels=6)
    branch, features = blueprint.build(spec), torch.randn(5, 6)
    assert blueprint.count_params(spec) == sum(p.numel() for p in branch.parameters())
    delta = branch(features)
    assert torch.equal(delta, torch.zeros(5, 6))
    (delta * torch.randn(5, 6)).sum().backward()
    assert any(bool(p.grad is not None and p.grad.any()) for p in branch.parameters())


def test_the_big_network_is_the_largest_within_our_final_parameters() -> None:
    # Width 8, three hidden layers, 64 inputs: 754 parameters, and three seeds of 552 are at most 2410.
    assert count_params(64, (8, 8, 8), 10) == 754
    assert count_full_params(64, 8, 3, 10) == 2410
    wide = match_width(64, 8, 3, 10)
    assert wide == 20
    assert count_params(64, (20, 20, 20), 10) == 2350 <= 2410 < count_params(64, (21, 21, 21), 10)


def test_growth_points_carry_the_width_of_their_layer() -> None:
    points = PlainMLP(3, (4, 6), 5).injection_points()
    assert [(point.slot_id, point.num_channels) for point in points] == [("hidden1", 4), ("hidden2", 6)]
