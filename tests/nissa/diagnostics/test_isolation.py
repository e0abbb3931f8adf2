"""Reach: 0 where no graph leads, the gradient's norm where one does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.nissa.diagnostics.isolation import measure_reach


def test_a_detached_feature_reaches_nothing_and_an_attached_one_is_found() -> None:
    host, seed = nn.Linear(3, 3), nn.Linear(3, 1)
    features = host(torch.ones(2, 3))
    apart, joined = seed(features.detach()).square().sum(), seed(features).square().sum()
    assert float(measure_reach(apart, list(host.parameters()))) == 0.0
    expected = torch.autograd.grad(joined, list(host.parameters()), retain_graph=True)
    norm = float(torch.stack([gradient.norm() for gradient in expected]).norm())
    assert float(measure_reach(joined, list(host.parameters()))) == pytest.approx(norm)
    assert all(parameter.grad is None for parameter in (*host.parameters(), *seed.parameters()))


def test_a_value_without_graph_and_frozen_parameters_reach_nothing() -> None:
    layer = nn.Linear(2, 2)
    assert float(measure_reach(torch.ones(()), list(layer.parameters()))) == 0.0
    value = layer(torch.ones(1, 2)).sum()
    assert float(measure_reach(value, [])) == 0.0
    layer.weight.requires_grad_(False)
    assert float(measure_reach(layer(torch.ones(1, 2)).sum(), [layer.weight])) == 0.0
