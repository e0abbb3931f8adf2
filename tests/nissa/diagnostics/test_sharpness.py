"""Sharpness: right on a loss whose slope is known, and the weights are to the bit what they were."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from esper.nissa.diagnostics.sharpness import measure_sharpness


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_sharpness_of_a_plane_is_the_mean_size_of_its_slope_along_noise() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    facts = measure_sharpness([weight], lambda: 3.0 * weight.sum(), num_draws=4000, generator=seeded(0))
    assert facts.sharpness == pytest.approx(3.0 * math.sqrt(2.0 / math.pi), rel=0.05)
    assert facts.loss == 0.0


def test_a_flat_loss_has_none() -> None:
    weight = nn.Parameter(torch.randn(5, generator=seeded(1)))
    facts = measure_sharpness([weight], lambda: torch.ones(()), num_draws=3, generator=seeded(0))
    assert facts == (0.0, 1.0)


def test_weights_and_the_global_stream_are_to_the_bit_what_they_were() -> None:
    conv = nn.Conv2d(2, 3, 3)
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(3, 2))
    inputs = torch.randn(4, 2, 3, 3, generator=seeded(5))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stream = torch.get_rng_state()
    facts = [
        measure_sharpness(
            list(net.parameters()), lambda: net(inputs).square().mean(), num_draws=5, generator=seeded(3)
        )
        for _ in range(2)
    ]
    assert facts[0] == facts[1]
    assert facts[0].sharpness > 0.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)


def test_weights_come_back_when_the_loss_fails() -> None:
    weight = nn.Parameter(torch.ones(3))
    calls: list[int] = []

    def compute_loss() -> Tensor:
        calls.append(len(calls))
        if len(calls) == 2:
            raise RuntimeError("no such luck")
        return weight.sum()

    with pytest.raises(RuntimeError, match="no such luck"):
        measure_sharpness([weight], compute_loss, num_draws=2, generator=seeded(0))
    assert torch.equal(weight, torch.ones(3))
