from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.tamiyo.network import NetworkConfig, build_network
from esper.tamiyo.network.build import lay_out_network
from tamiyo.network.network_cases import FLAT, LAYOUT, SMALL, make_inputs

CONFIGS = (
    SMALL,
    replace(SMALL, is_recurrent=False),
    replace(SMALL, attention_layers=0),
    FLAT,
    replace(FLAT, factorisation="factored"),
)


@pytest.mark.parametrize("config", CONFIGS)
def test_equal_seeds_give_equal_bits_and_other_seeds_other_weights(config: NetworkConfig) -> None:
    first, second, other = (build_network(config, LAYOUT, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name in first if first[name].dim() == 2]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_building_neither_reads_nor_moves_the_global_stream() -> None:
    before = torch.get_rng_state()
    first = build_network(SMALL, LAYOUT, seed=0).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    second = build_network(SMALL, LAYOUT, seed=0).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def is_scaled_orthogonal(weight: torch.Tensor, gain: float) -> bool:
    """Whether the rows (or the columns of a tall matrix) are orthogonal and of length `gain`."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return torch.allclose(wide @ wide.T, gain**2 * torch.eye(len(wide)), atol=1e-4 * max(gain, 1e-2) ** 2)


@pytest.mark.parametrize("config", CONFIGS)
def test_gains_are_small_before_logits_and_value_and_sqrt_two_elsewhere(
    config: NetworkConfig,
) -> None:
    network = build_network(config, LAYOUT, seed=0)
    policy = {id(layer) for layer in network.heads.policy_layers()}
    assert len(policy) >= 4
    for module in network.modules():
        if isinstance(module, nn.Linear):
            is_value, is_policy = module is network.value_layer, id(module) in policy
            gain = 0.01 if is_value or is_policy else 2**0.5
            assert is_scaled_orthogonal(module.weight.detach(), gain)
            assert module.bias.eq(0).all() == (is_value or is_policy)


def test_a_memory_span_spreads_how_long_cells_hold_on_up_to_that_many_steps() -> None:
    """Only the two gates' biases differ from a network without it: the other draws come from before."""
    plain, wide = (
        build_network(NetworkConfig(core_size=512, memory_span=span), LAYOUT, seed=0) for span in (1, 40)
    )
    biases = [p for name, p in wide.named_parameters() if "bias_ih" in name]
    assert len(biases) == 2  # the actor's and the critic's
    for bias in biases:
        opened, kept, *others = bias.detach().chunk(4)
        held = kept.exp()
        assert 1.0 <= float(held.min()) < 3.0
        assert 36.0 < float(held.max()) <= 39.0
        assert float(held.mean()) == pytest.approx(20.0, abs=2.0)
        torch.testing.assert_close(opened, -kept)
        assert not any(other.any() for other in others)
    matrices = [
        (a, b)
        for (name, a), b in zip(plain.named_parameters(), wide.parameters(), strict=True)
        if "core" in name and a.dim() == 2
    ]
    assert matrices
    assert torch.equal(matrices[0][0], matrices[0][1])


def test_forget_gates_start_open_and_gates_orthogonal() -> None:
    network = build_network(replace(SMALL, core_layers=3), LAYOUT, seed=0)
    lstm = next(module for module in network.modules() if isinstance(module, nn.LSTM))
    for name, weight in lstm.named_parameters():
        gates = weight.detach().chunk(4)
        if weight.dim() == 2:
            assert all(is_scaled_orthogonal(gate, 1.0) for gate in gates)
        else:
            assert gates[1].eq(1.0 if name.startswith("bias_ih") else 0.0).all()
            assert not any(gates[place].any() for place in (0, 2, 3))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_new_policy_is_nearly_uniform_over_what_is_legal(config: NetworkConfig) -> None:
    network = build_network(config, LAYOUT, seed=0)
    inputs = make_inputs(8, seed=5)
    view = network.view(inputs, network.initial_memory(8), torch.ones(8, dtype=torch.bool))
    probabilities = view.distribution.probabilities(view.distribution.mode())["op"]
    uniform = inputs["mask_op"] / inputs["mask_op"].sum(dim=-1, keepdim=True)
    torch.testing.assert_close(probabilities, uniform, rtol=0, atol=0.03)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_weight_has_a_gradient_from_policy_entropy_and_value(config: NetworkConfig) -> None:
    network = build_network(config, LAYOUT, seed=0)
    inputs = make_inputs(6, 5, seed=2)
    memory = network.initial_memory(6)
    starts = torch.zeros(6, 5, dtype=torch.bool)
    flat = {name: tensor[:, 0] for name, tensor in inputs.items()}
    noise = torch.rand(6, len(LAYOUT.heads), generator=torch.Generator().manual_seed(0))
    actions = network.act(flat, memory, starts[:, 0], noise=noise).actions
    scored = network.evaluate(inputs, actions[:, None].expand(6, 5, 7), memory, starts)
    loss = scored.log_probs.clamp(min=-100).sum() + scored.entropy.sum() + scored.values.sum()
    names, weights = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    without = [name for name, g in zip(names, gradients, strict=True) if not g.any()]
    assert without == []
    assert all(g.isfinite().all() for g in gradients)


def test_laid_out_networks_have_shapes_without_storage() -> None:
    laid_out = lay_out_network(SMALL, LAYOUT, num_families=12)
    assert all(parameter.is_meta for parameter in laid_out.parameters())
    built = build_network(SMALL, LAYOUT, seed=0)
    shapes = [{name: x.shape for name, x in module.state_dict().items()} for module in (laid_out, built)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("config", [SMALL, FLAT])
def test_a_new_policy_interferes_as_rarely_as_it_is_told(config: NetworkConfig) -> None:
    network = build_network(replace(config, removal_bias=-3.0), LAYOUT, seed=0)
    bias = dict(zip(network.layout.op_names, network.heads.op_layer().bias.tolist(), strict=True))
    assert bias == {name: -3.0 if name in ("CULL", "SET_ALPHA") else 0.0 for name in network.layout.op_names}


@pytest.mark.parametrize("config", [SMALL, FLAT, replace(FLAT, factorisation="factored")])
def test_a_new_policy_leans_to_full_ramps_as_far_as_it_is_told(config: NetworkConfig) -> None:
    layout = replace(LAYOUT, argument_names={**LAYOUT.argument_names, "alpha_target": ("1", "0.5", "0.7")})
    network = build_network(replace(config, full_target_bias=2.5), layout, seed=0)
    rows = network.heads.argument_bias("alpha_target").reshape(-1, 3)
    assert rows.tolist() == [[2.5, 0.0, 0.0]] * len(rows)
    assert not any(network.heads.argument_bias(h).any() for h in ("blend", "curve", "tempo"))


def test_a_layout_that_does_not_tell_its_targets_gets_no_leaning() -> None:
    network = build_network(SMALL, replace(LAYOUT, argument_names={}), seed=0)
    assert not network.heads.argument_bias("alpha_target").any()
