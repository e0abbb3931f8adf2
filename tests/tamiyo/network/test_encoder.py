from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.tamiyo.network.encoder import Encoded, GrowthEncoder
from tamiyo.network.network_cases import make_inputs, make_network, pad_inputs, permute_slots

NETWORK = make_network(spread=0.2).double()


def encode(inputs: dict[str, Tensor], encoder: torch.nn.Module = NETWORK.encoder) -> Encoded:
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    encoded: Encoded = encoder(wide)
    return encoded


def tokens_of(encoded: Encoded) -> tuple[Tensor, Tensor]:
    assert encoded.slots is not None
    assert encoded.blueprints is not None
    return encoded.slots, encoded.blueprints


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(0, 1000))
def test_exchanging_slots_exchanges_their_tokens_and_changes_nothing_else(slots: int, seed: int) -> None:
    inputs = make_inputs(4, slots=slots, seed=seed)
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(seed))
    plain, moved = encode(inputs), encode(permute_slots(inputs, order))
    torch.testing.assert_close(moved.core, plain.core, rtol=0, atol=1e-10)
    for before, after in zip(tokens_of(plain), tokens_of(moved), strict=True):
        torch.testing.assert_close(after, before[:, order], rtol=0, atol=1e-10)


@settings(max_examples=15)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1000))
def test_more_padding_changes_nothing(slots: int, blueprints: int, seed: int) -> None:
    inputs = make_inputs(4, seed=seed)
    plain, padded = encode(inputs), encode(pad_inputs(inputs, slots, blueprints))
    torch.testing.assert_close(padded.core, plain.core, rtol=0, atol=1e-10)
    tokens, offers = tokens_of(padded)
    expected_tokens, expected_offers = tokens_of(plain)
    torch.testing.assert_close(tokens[:, :3], expected_tokens, rtol=0, atol=1e-10)
    torch.testing.assert_close(offers[:, :3, :4], expected_offers, rtol=0, atol=1e-10)
    assert tokens[:, 3:].eq(0).all()
    assert offers[:, 3:].eq(0).all()
    assert offers[:, :, 4:].eq(0).all()


@pytest.mark.parametrize("junk", [math.nan, 1e30])
def test_what_padding_holds_reaches_neither_results_nor_gradients(junk: float) -> None:
    inputs = make_inputs(4)
    dirty = dict(inputs)
    dirty["slots"] = inputs["slots"].masked_fill(~inputs["slot_exists"][..., None], junk)
    dirty["blueprints"] = inputs["blueprints"].masked_fill(~inputs["blueprint_exists"][..., None], junk)
    results = []
    for case in (inputs, dirty):
        encoded = encode(case)
        tokens, offers = tokens_of(encoded)
        total = encoded.core.sum() + tokens.sum() + offers.sum()
        results.append(
            [encoded.core, tokens, offers, *torch.autograd.grad(total, list(NETWORK.encoder.parameters()))]
        )
    for clean, spoilt in zip(*results, strict=True):
        assert torch.equal(clean, spoilt)


def test_a_host_without_any_slot_is_finite_in_value_and_gradient() -> None:
    inputs = make_inputs(2)
    empty = {name: torch.zeros_like(x) if name != "global" else x for name, x in inputs.items()}
    encoded = encode(empty)
    tokens, offers = tokens_of(encoded)
    assert encoded.core.isfinite().all()
    assert tokens.eq(0).all()
    assert offers.eq(0).all()
    weights = list(NETWORK.encoder.parameters())
    gradients = torch.autograd.grad(encoded.core.sum(), weights, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_any_number_of_slots_has_the_same_core_input(slots: int) -> None:
    encoded = encode(make_inputs(2, slots=slots, blueprints=3))
    tokens, offers = tokens_of(encoded)
    assert encoded.core.shape == (2, 12)
    assert tokens.shape == (2, slots, 8)
    assert offers.shape == (2, slots, 3, 8)


def test_every_part_of_an_observation_reaches_the_core_and_its_slot() -> None:
    inputs = make_inputs(1, slots=2, seed=3)
    inputs["slot_exists"][:] = True
    inputs["blueprint_exists"][:] = True
    plain = encode(inputs)
    for name in ("global", "slots", "blueprints", "slot_families", "blueprint_families"):
        changed = dict(inputs)
        old = inputs[name]
        changed[name] = (old + 1) % 13 if not old.is_floating_point() else old + 1
        other = encode(changed)
        assert not torch.allclose(other.core, plain.core, atol=1e-6), name
        assert not torch.allclose(tokens_of(other)[0], tokens_of(plain)[0], atol=1e-6), name


def test_slots_see_each_other_through_attention() -> None:
    inputs = make_inputs(1, slots=2)
    inputs["slot_exists"][:] = True
    changed = {**inputs, "slots": inputs["slots"].clone()}
    changed["slots"][:, 1] += 1
    assert not torch.allclose(tokens_of(encode(changed))[0][:, 0], tokens_of(encode(inputs))[0][:, 0])
    blind = make_network(spread=0.2)
    blind.encoder.attention = torch.nn.ModuleList()
    blind.double()
    assert isinstance(blind.encoder, GrowthEncoder)
    same = [tokens_of(encode(case, blind.encoder))[0][:, 0] for case in (inputs, changed)]
    assert torch.equal(same[0], same[1])
