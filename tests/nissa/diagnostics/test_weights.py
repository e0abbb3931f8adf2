"""Weights: norms and drift by hand, effective ranks of matrices whose rank is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.nissa.diagnostics.weights import (
    compute_effective_rank,
    copy_weights,
    measure_ranks,
    measure_weights,
)


def test_drift_is_the_distance_over_the_norm_at_birth() -> None:
    layer = [nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([4.0]))]
    births = {"layer": copy_weights(layer)}
    with torch.no_grad():
        layer[0][1] = 5.0
    norms, drift = measure_weights({"layer": layer, "new": [nn.Parameter(torch.ones(4))], "none": []}, births)
    assert norms == pytest.approx({"layer": math.sqrt(50.0), "new": 2.0})
    assert drift == {"layer": 1.0}


def test_drift_from_zero_is_the_distance_itself() -> None:
    layer = [nn.Parameter(torch.zeros(2))]
    births = {"layer": copy_weights(layer)}
    with torch.no_grad():
        layer[0].fill_(2.0)
    assert measure_weights({"layer": layer}, births)[1]["layer"] == pytest.approx(math.sqrt(8.0))
    assert measure_weights({}, births) == ({}, {})


def test_effective_ranks_of_known_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(5, 1, generator=generator) @ torch.randn(1, 9, generator=generator)
    found = measure_ranks(
        {
            "identity": torch.eye(6),
            "wide": torch.eye(3, 8) * 7.0,
            "tall": torch.eye(8, 3),
            "one": one,
            "zero": torch.zeros(3, 3),
            "kernel": torch.eye(4).view(4, 4, 1, 1),
            "bias": torch.ones(4),
            "large": torch.zeros(513, 513),
            "broken": torch.full((2, 2), math.nan),
        }
    )
    expected = {"identity": 6.0, "wide": 3.0, "tall": 3.0, "one": 1.0, "zero": 0.0, "kernel": 4.0}
    assert found == pytest.approx(expected, abs=0.05)


def test_the_effective_rank_is_that_of_singular_values() -> None:
    matrix = torch.randn(6, 10, generator=torch.Generator().manual_seed(4))
    expected = compute_effective_rank(torch.linalg.svdvals(matrix).tolist())
    assert measure_ranks({"a": matrix})["a"] == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8))
def test_an_effective_rank_is_between_one_and_the_number_of_values(values: list[float]) -> None:
    rank = compute_effective_rank(values)
    assert rank == 0.0 if sum(values) == 0.0 else 1.0 - 1e-9 <= rank <= len(values) + 1e-9
