"""kasmina/attention.py; that it equals the formula is shown with the host (hosts/test_transformer.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

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


@pytest.fixture
def read_types(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Collects the precision of every call of torch's attention."""
    found: list[torch.dtype] = []
    plain = F.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *, dropout_p: float, is_causal: bool) -> Tensor:
        found.append(query.dtype)
        return plain(query, key, value, dropout_p=dropout_p, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    return found


def test_under_autocast_a_cpu_attends_in_float32_and_the_maps_around_it_do_not(
    read_types: list[torch.dtype],
) -> None:
    attention = CausalSelfAttention(8, 2)
    stir(attention)
    h = draw(3, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attention(h)
    assert read_types == [torch.float32]
    assert mixed.dtype is torch.bfloat16
    assert torch.allclose(mixed.float(), attention(h), atol=0.05)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_without_autocast_attention_keeps_the_precision_of_its_weights(
    read_types: list[torch.dtype], kind: torch.dtype
) -> None:
    attention = CausalSelfAttention(8, 2).to(kind)
    assert attention(draw(3, 6, 8).to(kind)).dtype is kind
    assert read_types == [kind]


def test_weights_in_bf16_give_bf16_and_all_of_them_learn() -> None:
    attention = CausalSelfAttention(8, 2).to(torch.bfloat16)
    stir(attention)
    out = attention(draw(3, 6, 8).to(torch.bfloat16))
    assert out.dtype is torch.bfloat16
    out.square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in attention.parameters())
