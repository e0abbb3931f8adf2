"""kasmina/attention.py; that it equals the formula is shown with the host (hosts/test_transformer.py)."""

from __future__ import annotations

import torch

from esper.kasmina.attention import CausalSelfAttention
from kasmina.growing import draw, stir


def test_a_change_at_one_position_reaches_that_and_later_ones_only() -> None:
    attention = CausalSelfAttention(8, 2)
    stir(attention)
    h = draw(1, 6, 8).requires_grad_()
    for place in range(6):
        (gradient,) = torch.autograd.grad(attention(h)[0, place].sum(), h)
        reached = gradient[0].abs().sum(dim=-1) > 0
        assert reached.tolist() == [earlier <= place for earlier in range(6)]


def test_the_first_position_reads_its_own_value_alone() -> None:
    attention = CausalSelfAttention(8, 2)
    stir(attention)
    h = draw(3, 1, 8)
    value = h @ attention.mix.weight[16:].T
    assert torch.allclose(attention(h), attention.project(value), atol=1e-6)
