from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import MorphogeneticModel, build_seeded, builtin_registry, count_flops, count_trainable
from esper.kasmina.blueprints.sequence import choose_heads
from esper.leyline import BLUEPRINT_FAMILIES, Layout, SeedStage
from kasmina.growing import draw, draw_tokens, grow, make_model, make_spec, make_transformer, stir

REGISTRY = builtin_registry()
SPEC = make_spec((7, 64), Layout.SEQUENCE)
NAMES = REGISTRY.fitting(SPEC)


def _build(name: str, seed: int = 0) -> nn.Module:
    return build_seeded(lambda: REGISTRY.get(name).build(SPEC), seed)


def test_the_families_that_fit_sequences_are_known() -> None:
    assert NAMES == ("noop", "norm", "mlp", "mlp_small", "lora", "lora_small", "causal_attention")
    assert {REGISTRY.get(name).family for name in NAMES} <= set(BLUEPRINT_FAMILIES)


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("norm", 2 * 64 + 1),
        ("mlp", 128 + 64 * 256 + 256 + 256 * 64 + 64),
        ("mlp_small", 128 + 64 * 128 + 128 + 128 * 64 + 64),
        ("lora", 2 * 64 * 32),
        ("lora_small", 2 * 64 * 8),
        ("causal_attention", 128 + 3 * 64 * 64 + 64 * 64 + 64),
    ],
)
def test_parameters_on_64_channels(name: str, num_params: int) -> None:
    assert REGISTRY.get(name).count_params(SPEC) == num_params == count_trainable(_build(name))


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("norm", 0),
        ("mlp", 7 * 2 * 64 * 256),
        ("mlp_small", 7 * 2 * 64 * 128),
        ("lora", 7 * 2 * 64 * 32),
        ("lora_small", 7 * 2 * 64 * 8),
        ("causal_attention", 7 * 4 * 64 * 64 + 2 * 7 * 7 * 64),
    ],
)
def test_flops_on_seven_positions_of_64_channels(name: str, multiply_adds: int) -> None:
    assert count_flops(_build(name), SPEC.shape) == 2 * multiply_adds


@pytest.mark.parametrize("name", [name for name in NAMES if name != "noop"])
def test_no_output_depends_on_a_later_position(name: str) -> None:
    branch = _build(name)
    stir(branch)
    h = draw(2, 7, 64).requires_grad_()
    for place in range(7):
        (gradient,) = torch.autograd.grad(branch(h)[:, place].square().sum(), h)
        assert gradient[:, : place + 1].abs().sum() > 0
        assert gradient[:, place + 1 :].abs().sum() == 0


@pytest.mark.parametrize(("name", "rank"), [("lora", 32), ("lora_small", 8)])
def test_lora_is_a_linear_map_of_its_rank(name: str, rank: int) -> None:
    branch = _build(name)
    stir(branch)
    h, other = draw(100, 1, 64), draw(100, 1, 64, seed=1)
    assert int(torch.linalg.matrix_rank(branch(h)[:, 0])) == rank
    assert torch.allclose(branch(h + 2.0 * other), branch(h) + 2.0 * branch(other), atol=1e-3)


@pytest.mark.parametrize("name", ["lora", "mlp", "mlp_small", "causal_attention"])
def test_the_last_linear_map_is_zero_and_the_rest_is_not(name: str) -> None:
    linear = [part for part in _build(name).modules() if isinstance(part, nn.Linear)]
    assert not any(bool(p.any()) for p in linear[-1].parameters())
    assert all(bool(part.weight.all()) for part in linear[:-1])


@pytest.mark.parametrize(
    ("channels", "heads"), [(8, 1), (16, 1), (32, 2), (48, 2), (64, 4), (66, 2), (67, 1), (128, 8), (384, 8)]
)
def test_heads_are_as_many_as_leave_16_channels_each(channels: int, heads: int) -> None:
    assert choose_heads(channels) == heads


def test_attention_is_not_offered_where_there_is_one_position() -> None:
    assert "causal_attention" not in REGISTRY.fitting(make_spec((1, 64), Layout.SEQUENCE))


def test_branches_that_normalise_are_not_offered_where_few_channels_are() -> None:
    assert REGISTRY.fitting(make_spec((7, 3), Layout.SEQUENCE)) == ("noop", "lora", "lora_small")
    assert "mlp" in REGISTRY.fitting(make_spec((3,), Layout.FLAT))


def _language_model() -> MorphogeneticModel:
    return make_model(make_transformer(), sample=draw_tokens(2, 8))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "noop"])
def test_a_seed_at_birth_changes_no_bit_and_a_grown_one_stays_causal(name: str) -> None:
    model, tokens = _language_model(), draw_tokens(3, 8)
    plain = _language_model().eval()(tokens)
    model.eval()
    grow(model, "block1", SeedStage.TRAINING, blueprint=name)
    assert torch.equal(model(tokens), plain)
    grow(model, "block2", SeedStage.FOSSILIZED, blueprint=name)
    before = model(tokens)
    assert not torch.equal(before, plain)
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    assert torch.allclose(model(changed)[:, :5], before[:, :5], atol=1e-5)


@pytest.mark.parametrize("slot", ["block1", "block2"])
def test_tail_after_a_slot_is_what_the_host_does_from_there(slot: str) -> None:
    model, tokens = _language_model(), draw_tokens(3, 8)
    model.eval()
    grow(model, "block2", SeedStage.FOSSILIZED, blueprint="mlp")
    features = next(h for name, h in _features(model, tokens) if name == slot)
    assert torch.allclose(model.run_tail(slot, features, tokens), model(tokens), atol=1e-6)


def _features(model: MorphogeneticModel, tokens: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return what leaves each slot."""
    hidden, found = tokens, []
    for name, segment in model.host.segments():  # type: ignore[operator]
        hidden = segment(hidden)
        found.append((name, hidden))
    return found


def test_costs_of_tails_are_those_of_the_segments_after_a_slot() -> None:
    model = _language_model()
    linear, attention = 8 * 12 * 16 * 16, 2 * 8 * 8 * 16
    head = 8 * 16 * 11
    assert model.host_flops == 2 * (2 * (linear + attention) + head)
    assert model.tail_flops("block1") == 2 * (linear + attention + head)
    assert model.tail_flops("block2") == 2 * head
