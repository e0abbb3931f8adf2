from __future__ import annotations

import math

import torch
from torch import nn

from esper.tamiyo.network.layers import FamilyEmbedding, SlotAttention, build_mlp, masked_max, masked_mean


def test_masked_mean_and_maximum_see_only_what_counts() -> None:
    values = torch.tensor([[[1.0, -5.0], [3.0, -7.0], [math.nan, 1e30]]])
    mask = torch.tensor([[True, True, False]])
    assert masked_mean(values, mask).tolist() == [[2.0, -6.0]]
    assert masked_max(values, mask).tolist() == [[3.0, -5.0]]


def test_where_nothing_counts_mean_and_maximum_are_zero() -> None:
    values, mask = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    assert masked_mean(values, mask).eq(0).all()
    assert masked_max(values, mask).eq(0).all()


def test_layers_end_without_an_activation() -> None:
    mlp = build_mlp(3, 4, 5, 2)
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert mlp(torch.randn(6, 3)).shape == (6, 2)


def test_unknown_families_and_families_of_a_later_version_are_the_zero_vector() -> None:
    families = FamilyEmbedding(3, 4)
    vectors = families(torch.tensor([[0, 1, 3, 4, 99]]))
    assert vectors.shape == (1, 5, 4)
    assert vectors[0, [0, 3, 4]].eq(0).all()
    assert vectors[0, [1, 2]].ne(0).all()


def test_the_zero_vector_is_not_learned() -> None:
    families = FamilyEmbedding(3, 4)
    (gradient,) = torch.autograd.grad(families(torch.tensor([0, 4, 2])).sum(), families.table.weight)
    assert gradient[[0, 1, 3]].eq(0).all()
    assert gradient[2].eq(1).all()


def test_attention_equals_the_fused_kernel_of_torch_over_existing_slots() -> None:
    layer = SlotAttention(8, 2).double()
    tokens = torch.randn(2, 4, 8, dtype=torch.float64)
    exists = torch.tensor([[True, True, True, True], [True, False, True, False]])
    query, key, value = layer.qkv(layer.norm(tokens)).view(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=exists[:, None, None])
    expected = tokens + layer.out(mixed.transpose(1, 2).reshape(2, 4, 8))
    expected = expected + layer.mlp(layer.mlp_norm(expected))
    torch.testing.assert_close(layer(tokens, exists)[exists], expected[exists], rtol=0, atol=1e-12)
    assert layer(tokens, exists)[~exists].eq(0).all()


def test_attention_of_a_host_without_slots_is_finite_in_value_and_gradient() -> None:
    layer = SlotAttention(8, 2)
    tokens = torch.zeros(1, 3, 8, requires_grad=True)
    output = layer(tokens, torch.zeros(1, 3, dtype=torch.bool))
    assert output.eq(0).all()
    gradients = torch.autograd.grad(output.sum(), [tokens, *layer.parameters()])
    assert all(gradient.eq(0).all() for gradient in gradients)
