"""Shapley values equal the mean over all orders, add up, treat equals alike, and give a dummy nothing."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.tolaria.shapley import compute_shapley_values, list_prefixes, sample_orders


def values_by_orders(worth_CN: Tensor) -> Tensor:
    """The definition by orders, every one of the k! walked through."""
    num_players = len(worth_CN).bit_length() - 1
    total = torch.zeros(num_players, worth_CN.shape[1], dtype=torch.float64)
    orders = list(permutations(range(num_players)))
    for order in orders:
        for player, (before, after) in zip(order, pairwise(list_prefixes(order)), strict=True):
            total[player] += worth_CN[after] - worth_CN[before]
    return total / len(orders)


def draw_game(num_players: int, seed: int, num_items: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1 << num_players, num_items, generator=generator, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(num_players=st.integers(0, 5), seed=st.integers(0, 10_000))
def test_the_formula_equals_the_mean_over_every_order(num_players: int, seed: int) -> None:
    worth = draw_game(num_players, seed)
    torch.testing.assert_close(compute_shapley_values(worth), values_by_orders(worth))


@settings(max_examples=30, deadline=None)
@given(num_players=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_values_add_up_to_what_all_bring(num_players: int, seed: int) -> None:
    worth = draw_game(num_players, seed)
    torch.testing.assert_close(compute_shapley_values(worth).sum(dim=0), worth[-1] - worth[0])


def test_a_glove_game_by_hand() -> None:
    """One left glove (player 0) and two right ones: a pair is worth 1. Known values 2/3, 1/6, 1/6."""
    worth = torch.tensor([[float(mask & 1 and mask > 1)] for mask in range(8)], dtype=torch.float64)
    torch.testing.assert_close(
        compute_shapley_values(worth)[:, 0], torch.tensor([2 / 3, 1 / 6, 1 / 6], dtype=torch.float64)
    )


def test_a_player_that_changes_nothing_gets_nothing() -> None:
    worth = draw_game(3, seed=1)
    for mask in range(4, 8):
        worth[mask] = worth[mask & 3]
    assert float(compute_shapley_values(worth)[2].abs().max()) < 1e-12


def test_rows_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="3 coalitions"):
        compute_shapley_values(torch.zeros(3, 1, dtype=torch.float64))


def test_orders_follow_from_the_seed_and_hold_everybody_once() -> None:
    orders = sample_orders(5, 20, seed=3)
    assert orders == sample_orders(5, 20, seed=3)
    assert orders != sample_orders(5, 20, seed=4)
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert list_prefixes((2, 0, 1)) == [0, 4, 5, 7]
