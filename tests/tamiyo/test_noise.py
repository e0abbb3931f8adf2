"""Numbers by name: uniform, unrelated between rows, steps and heads, and the same whoever stands beside."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from esper.leyline import derive_seed
from esper.tamiyo import draw_noise

KEYS = torch.tensor([derive_seed(0, "row", row) for row in range(500)])


def numbers_of(num_steps: int, num_heads: int) -> torch.Tensor:
    """[steps, rows, heads]."""
    return torch.stack([draw_noise(KEYS, torch.full_like(KEYS, t), num_heads) for t in range(num_steps)])


def test_numbers_are_uniform_over_the_unit_interval() -> None:
    drawn = numbers_of(40, 7)
    assert float(drawn.min()) >= 0.0
    assert float(drawn.max()) < 1.0
    for part in (drawn.flatten(), drawn[0].flatten(), drawn[:, 0].flatten(), drawn[..., 3].flatten()):
        assert stats.kstest(part.numpy(), "uniform").pvalue > 1e-3


def test_rows_steps_and_heads_are_unrelated() -> None:
    drawn = numbers_of(200, 7) - 0.5
    for first, second in (
        (drawn[:, :-1], drawn[:, 1:]),
        (drawn[:-1], drawn[1:]),
        (drawn[..., :-1], drawn[..., 1:]),
    ):
        bound = 4.0 * (1 / 12) / first.numel() ** 0.5  # four standard errors of a mean of products
        assert abs(float((first * second).mean())) < bound


def test_keys_next_to_each_other_share_nothing() -> None:
    keys = torch.arange(2_000)
    drawn = draw_noise(keys, torch.zeros_like(keys), 1)[:, 0]
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(((drawn[:-1] - 0.5) * (drawn[1:] - 0.5)).mean())) < 4 / 12 / 2_000**0.5


@given(st.permutations(range(8)), st.integers(1, 8))
def test_a41_a_row_draws_the_same_in_any_company(order: list[int], count: int) -> None:
    steps = torch.arange(500)
    whole = draw_noise(KEYS, steps, 7)
    chosen = torch.tensor(order[:count])
    assert torch.equal(draw_noise(KEYS[chosen], steps[chosen], 7), whole[chosen])


@pytest.mark.parametrize(("key", "step", "expected"), [(0, 0, 0xE220A839), (0, 1, 0x6E789E6A)])
def test_the_mixing_is_the_published_one(key: int, step: int, expected: int) -> None:
    """SplitMix64 seeded with 0 begins with 0xE220A8397B1DCDAF and 0x6E789E6AA1B965F4; we keep 32 bits."""
    drawn = float(draw_noise(torch.tensor([key]), torch.tensor([step]), 1))
    assert drawn == expected / 2**32
