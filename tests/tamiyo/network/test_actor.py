from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esper.simic.interfaces import ActorCritic
from esper.tamiyo.actor_critic import NUM_PRIVILEGED, PRIVILEGED, Memory, SequenceEvaluation
from esper.tamiyo.distributions import EmptyMaskError
from esper.tamiyo.network import NetworkConfig, RecurrentActorCritic
from tamiyo.network.network_cases import FLAT, SMALL, make_inputs, make_network, pad_inputs, permute_slots

MEMORYLESS = replace(SMALL, is_recurrent=False)
PIECEWISE = replace(SMALL, checkpoint_core=True)


def roll_out(
    network: RecurrentActorCritic, inputs: dict[str, Tensor], starts: Tensor, *, seed: int = 0
) -> SequenceEvaluation:
    """Act step by step through [E, T] inputs, as a collector does; `active` holds the drawn actions."""
    memory = network.initial_memory(starts.shape[0])
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for step in range(starts.shape[1]):
        now = {name: tensor[:, step] for name, tensor in inputs.items()}
        noise = torch.rand(starts.shape[0], len(network.layout.heads), generator=generator)
        taken = network.act(now, memory, starts[:, step], noise=noise)
        memory = taken.memory
        steps.append(taken)
    return SequenceEvaluation(
        log_probs=torch.stack([step.log_probs for step in steps], dim=1),
        active=torch.stack([step.actions for step in steps], dim=1),
        entropy=torch.zeros(()),
        values=torch.stack([step.value for step in steps], dim=1),
        num_valid=torch.stack([step.num_valid for step in steps], dim=1),
    )


def some_starts(rows: int, steps: int) -> Tensor:
    starts = torch.zeros(rows, steps, dtype=torch.bool)
    starts[:, 0] = True
    starts[0, steps // 2] = True
    starts[-1, -1] = True
    return starts


def evaluate(network: RecurrentActorCritic, inputs: dict[str, Tensor], actions: Tensor) -> SequenceEvaluation:
    rows, steps = actions.shape[:2]
    return network.evaluate(inputs, actions, network.initial_memory(rows), some_starts(rows, steps))


def test_it_is_what_the_learner_asks_for() -> None:
    network: ActorCritic = make_network()
    assert network.value_layer.out_features == 1
    assert network.initial_memory(3).hidden.shape == (4, 3, 10), "two layers each, of actor and critic"
    shared: ActorCritic = make_network(replace(SMALL, is_critic_separate=False))
    assert shared.initial_memory(3).hidden.shape == (2, 3, 10)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        MEMORYLESS,
        PIECEWISE,
        FLAT,
        replace(FLAT, factorisation="factored"),
        replace(SMALL, is_critic_separate=False),
    ],
)
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (1, 7), (4, 7)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a11_stored_steps_score_as_they_were_drawn(
    config: NetworkConfig, rows: int, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    network = make_network(config, spread=0.2).to(dtype)
    inputs, starts = make_inputs(rows, steps, seed=1), some_starts(rows, steps)
    drawn = roll_out(network, inputs, starts)
    scored = network.evaluate(inputs, drawn.active, network.initial_memory(rows), starts)
    assert scored.log_probs.shape == scored.active.shape == scored.entropy.shape == (rows, steps, 7)
    torch.testing.assert_close(scored.log_probs, drawn.log_probs, rtol=0, atol=tolerance)
    torch.testing.assert_close(scored.values, drawn.values, rtol=0, atol=tolerance)
    assert torch.equal(scored.num_valid, drawn.num_valid)
    assert scored.log_probs[~scored.active].eq(0).all()
    assert scored.log_probs.dtype is dtype


def test_evaluating_goes_on_from_a_stored_memory() -> None:
    network = make_network(spread=0.2).double()
    inputs, starts = make_inputs(2, 6), some_starts(2, 6)
    drawn = roll_out(network, inputs, starts)
    memory = network.initial_memory(2)
    for step in range(3):
        now = {name: tensor[:, step] for name, tensor in inputs.items()}
        memory = network.act(now, memory, starts[:, step]).memory
    rest = {name: tensor[:, 3:] for name, tensor in inputs.items()}
    scored = network.evaluate(rest, drawn.active[:, 3:], memory, starts[:, 3:])
    torch.testing.assert_close(scored.log_probs, drawn.log_probs[:, 3:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("is_separate", [True, False])
def test_values_are_those_of_the_next_step_and_change_nothing(is_separate: bool) -> None:
    network = make_network(replace(SMALL, is_critic_separate=is_separate), spread=0.2).double()
    inputs = make_inputs(3)
    layers = network.initial_memory(3).hidden.shape[0]
    memory = Memory(*(torch.randn(layers, 3, 10, dtype=torch.float64) for _ in range(2)))
    before = [part.clone() for part in memory]
    no_start = torch.zeros(3, dtype=torch.bool)
    values = network.compute_values(inputs, memory, no_start)
    torch.testing.assert_close(values, network.act(inputs, memory, no_start).value)
    assert not values.requires_grad
    assert all(torch.equal(old, new) for old, new in zip(before, memory, strict=True))
    cleared = network.compute_values(inputs, memory, ~no_start)
    torch.testing.assert_close(cleared, network.compute_values(inputs, network.initial_memory(3), no_start))


@pytest.mark.parametrize("is_separate", [True, False])
def test_only_shared_layers_feel_the_value_loss(is_separate: bool) -> None:
    network = make_network(replace(SMALL, is_critic_separate=is_separate), spread=0.2)
    inputs, starts = make_inputs(2, 3), some_starts(2, 3)
    scored = evaluate(network, inputs, roll_out(network, inputs, starts).active)
    torch.autograd.backward(scored.values.sum())
    actor = [p for part in (network.encoder, network.core, network.heads) for p in part.parameters()]
    assert any(p.grad is not None for p in actor) is not is_separate


def test_acting_stays_outside_any_graph_and_evaluating_inside() -> None:
    network = make_network()
    inputs, starts = make_inputs(2, 3), some_starts(2, 3)
    step = network.act({name: x[:, 0] for name, x in inputs.items()}, network.initial_memory(2), starts[:, 0])
    for tensor in (step.log_probs, step.value, *step.memory):
        assert not tensor.requires_grad
    scored = evaluate(network, inputs, roll_out(network, inputs, starts).active)
    assert scored.log_probs.requires_grad
    assert scored.values.requires_grad


def make_noise(network: RecurrentActorCritic, num_rows: int, seed: int) -> Tensor:
    shape = (num_rows, len(network.layout.heads))
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_draws_come_from_the_noise_and_greedy_choices_need_none() -> None:
    network = make_network(spread=0.2)
    inputs, memory, starts = make_inputs(16), network.initial_memory(16), torch.ones(16, dtype=torch.bool)
    before = torch.get_rng_state()
    draws = [
        network.act(inputs, memory, starts, noise=make_noise(network, 16, seed)).actions for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    greedy = [network.act(inputs, memory, starts, is_greedy=True).actions for _ in range(2)]
    assert torch.equal(greedy[0], greedy[1])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", [SMALL, MEMORYLESS])
def test_a23_modes_make_no_difference_to_log_probs(config: NetworkConfig) -> None:
    network = make_network(config, spread=0.2)
    inputs, starts = make_inputs(2, 5), some_starts(2, 5)
    drawn = roll_out(network.eval(), inputs, starts)
    results = [
        network.train(is_training).evaluate(inputs, drawn.active, network.initial_memory(2), starts)
        for is_training in (True, False)
    ]
    assert torch.equal(results[0].log_probs, results[1].log_probs)
    assert torch.equal(results[0].values, results[1].values)
    torch.testing.assert_close(results[0].log_probs, drawn.log_probs, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- one bad row


def spoil(inputs: dict[str, Tensor], row: int, bad: float) -> dict[str, Tensor]:
    spoilt = {name: tensor.clone() for name, tensor in inputs.items()}
    for name in ("global", "slots", "blueprints"):
        spoilt[name][row] = bad
    return spoilt


@pytest.mark.parametrize("config", [SMALL, MEMORYLESS, FLAT])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a24_a_bad_row_leaves_the_others_bit_identical(config: NetworkConfig, bad: float) -> None:
    network = make_network(config, spread=0.2)
    inputs = make_inputs(4, seed=9)
    memory, starts = network.initial_memory(4), torch.ones(4, dtype=torch.bool)
    others = [0, 1, 3]

    def act(case: dict[str, Tensor]) -> list[Tensor]:
        step = network.act(case, memory, starts, noise=make_noise(network, 4, 3))
        rows = [step.actions, step.log_probs, step.value, step.num_valid]
        return [*rows, *(part.transpose(0, 1) for part in step.memory)]

    for clean, dirty in zip(act(inputs), act(spoil(inputs, 2, bad)), strict=True):
        assert torch.equal(clean[others], dirty[others])
    step = network.act(spoil(inputs, 2, bad), memory, starts)
    assert bool(inputs["mask_op"][2, step.actions[2, 0]]), "even a bad row gets a legal operation"
    if math.isnan(bad):
        assert step.value[2].isnan()
        # The next episode of that row is sound again.
        after = network.act(inputs, step.memory, torch.tensor([False, False, True, False]))
        assert after.value.isfinite().all()


def test_a24_a_bad_row_of_stored_steps_leaves_the_others_bit_identical() -> None:
    network = make_network(spread=0.2)
    inputs, starts = make_inputs(3, 6), some_starts(3, 6)
    actions = roll_out(network, inputs, starts).active
    clean, dirty = (evaluate(network, case, actions) for case in (inputs, spoil(inputs, 1, math.nan)))
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_a27_a_row_without_a_legal_action_is_named_before_anything_is_drawn() -> None:
    network = make_network()
    inputs = make_inputs(3)
    inputs["mask_op"][1] = False
    before = torch.get_rng_state()
    with pytest.raises(EmptyMaskError, match="row 1: no legal choice for head 'op'"):
        network.act(inputs, network.initial_memory(3), torch.ones(3, dtype=torch.bool))
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_that_are_not_real_score_finite_with_finite_gradients() -> None:
    network = make_network()
    inputs = {name: torch.zeros_like(tensor) for name, tensor in make_inputs(2, 3).items()}
    scored = evaluate(network, inputs, torch.zeros(2, 3, 7, dtype=torch.int64))
    assert scored.log_probs.isfinite().all()
    assert scored.entropy.eq(0).all()
    assert scored.values.isfinite().all()
    loss = scored.log_probs.clamp(min=-20).sum() + scored.values.sum() + scored.entropy.sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


# ---------------------------------------------------------------------- autocast


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [SMALL, MEMORYLESS, PIECEWISE, FLAT])
def test_a38_under_autocast_log_probs_entropies_values_and_memory_are_float32(
    config: NetworkConfig, narrow: torch.dtype
) -> None:
    network = make_network(config, spread=0.1)
    inputs, starts = make_inputs(3, 6), some_starts(3, 6)
    with torch.autocast("cpu", dtype=narrow):
        drawn = roll_out(network, inputs, starts)
        scored = evaluate(network, inputs, drawn.active)
        step = network.act(
            {name: x[:, 0] for name, x in inputs.items()}, network.initial_memory(3), starts[:, 0]
        )
        value = network.compute_values(
            {name: x[:, 0] for name, x in inputs.items()}, network.initial_memory(3), starts[:, 0]
        )
    outputs = (scored.log_probs, scored.entropy, scored.values, step.log_probs, step.value, value)
    for tensor in (*outputs, *step.memory):
        assert tensor.dtype is torch.float32
    # The same kernels on other shapes: rounding of the narrow encoder aside, the ratio is 1.
    torch.testing.assert_close(scored.log_probs, drawn.log_probs, rtol=0, atol=1e-3)
    loss = scored.log_probs.sum() + scored.values.sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    assert all(g.dtype is torch.float32 and bool(g.isfinite().all()) for g in gradients)


def test_autocast_makes_the_encoder_narrow() -> None:
    network = make_network(spread=0.1)
    inputs = make_inputs(2)
    starts = torch.ones(2, dtype=torch.bool)
    wide = network.act(inputs, network.initial_memory(2), starts, is_greedy=True).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = network.act(inputs, network.initial_memory(2), starts, is_greedy=True).value
    assert not torch.equal(wide, narrow)
    torch.testing.assert_close(narrow, wide, rtol=0, atol=0.1)


# ---------------------------------------------------------------------- any number of slots


def test_one_network_runs_on_any_number_of_slots() -> None:
    network = make_network(spread=0.2)
    for slots in (1, 2, 5):
        inputs, starts = make_inputs(3, 4, slots=slots, blueprints=slots + 1), some_starts(3, 4)
        drawn = roll_out(network, inputs, starts)
        assert int(drawn.active[..., 1].max()) < slots
        scored = evaluate(network, inputs, drawn.active)
        torch.testing.assert_close(scored.log_probs, drawn.log_probs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_more_padded_slots_and_blueprints_change_nothing(dtype: torch.dtype, tolerance: float) -> None:
    network = make_network(spread=0.1).to(dtype)
    inputs, starts = make_inputs(3, 5), some_starts(3, 5)
    actions = roll_out(network, inputs, starts).active
    plain, padded = (evaluate(network, case, actions) for case in (inputs, pad_inputs(inputs, 4, 3)))
    for before, after in zip(plain, padded, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=tolerance)


def test_exchanging_slots_exchanges_the_answer() -> None:
    network = make_network(spread=0.2).double()
    inputs = make_inputs(6, slots=4, seed=4)
    order = torch.tensor([2, 0, 3, 1])
    memory, starts = network.initial_memory(6), torch.ones(6, dtype=torch.bool)
    plain = network.act(inputs, memory, starts, is_greedy=True)
    moved = network.act(permute_slots(inputs, order), memory, starts, is_greedy=True)
    torch.testing.assert_close(moved.value, plain.value, rtol=0, atol=1e-10)
    torch.testing.assert_close(moved.log_probs, plain.log_probs, rtol=0, atol=1e-10)
    addressed = network.view(inputs, memory, starts).distribution.active(plain.actions)[:, 1]
    assert addressed.any()
    assert torch.equal(order[moved.actions[:, 1]][addressed], plain.actions[:, 1][addressed])


# ---------------------------------------------------------------------- seams


@pytest.mark.parametrize("missing", ["slots", "mask_op", "mask_slot", "mask_blueprint"])
def test_a_missing_input_is_named(missing: str) -> None:
    network = make_network()
    inputs = make_inputs(1)
    del inputs[missing]
    with pytest.raises(ValueError, match=f"lack {missing}; given: "):
        network.act(inputs, network.initial_memory(1), torch.ones(1, dtype=torch.bool))


def test_a_network_can_be_copied() -> None:
    network = make_network(spread=0.2)
    copied = copy.deepcopy(network)
    inputs, starts = make_inputs(2), torch.ones(2, dtype=torch.bool)
    values = [n.compute_values(inputs, n.initial_memory(2), starts) for n in (network, copied)]
    assert torch.equal(values[0], values[1])
    assert copied.layout == network.layout


def test_the_memory_carries_what_was_seen() -> None:
    network = make_network(spread=0.2)
    inputs, starts = make_inputs(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    changed = {name: tensor.clone() for name, tensor in inputs.items()}
    changed["global"][:, 0] += 1.0
    actions = torch.zeros(1, 4, 7, dtype=torch.int64)
    values = [
        network.evaluate(case, actions, network.initial_memory(1), starts).values
        for case in (inputs, changed)
    ]
    assert not torch.allclose(values[0][:, 3], values[1][:, 3], atol=1e-6)
    memoryless = make_network(MEMORYLESS, spread=0.2)
    values = [
        memoryless.evaluate(case, actions, memoryless.initial_memory(1), starts).values
        for case in (inputs, changed)
    ]
    torch.testing.assert_close(values[0][:, 1:], values[1][:, 1:], rtol=0, atol=1e-7)


KNOWING = replace(SMALL, is_critic_privileged=True)


def told(inputs: dict[str, Tensor], lead: float) -> dict[str, Tensor]:
    shape = (*inputs["global"].shape[:-1], NUM_PRIVILEGED)
    return inputs | {PRIVILEGED: torch.full(shape, lead, dtype=torch.float64)}


def test_what_only_the_critic_knows_moves_values_and_no_decision() -> None:
    network = make_network(KNOWING, spread=0.2).double()
    inputs, starts = make_inputs(3, 4), some_starts(3, 4)
    behind, ahead = (roll_out(network, told(inputs, lead), starts) for lead in (-1.0, 1.0))
    assert torch.equal(behind.active, ahead.active)
    assert torch.equal(behind.log_probs, ahead.log_probs)
    assert (behind.values - ahead.values).abs().min() > 1e-6


def test_stored_values_of_a_knowing_critic_score_as_they_were_seen() -> None:
    network = make_network(KNOWING, spread=0.2).double()
    inputs, starts = told(make_inputs(3, 4), 0.7), some_starts(3, 4)
    drawn = roll_out(network, inputs, starts)
    scored = network.evaluate(inputs, drawn.active, network.initial_memory(3), starts)
    torch.testing.assert_close(scored.values, drawn.values, rtol=0, atol=1e-9)
    first = {name: tensor[:, 0] for name, tensor in inputs.items()}
    values = network.compute_values(first, network.initial_memory(3), starts[:, 0])
    torch.testing.assert_close(values, drawn.values[:, 0])


def test_a_knowing_critic_in_training_must_be_told() -> None:
    network = make_network(KNOWING)
    inputs, starts = make_inputs(2), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="network inputs lack 'privileged', which the critic reads"):
        network.act(inputs, network.initial_memory(2), starts)
    with pytest.raises(ValueError, match="privileged"):
        network.compute_values(inputs, network.initial_memory(2), starts)
    with pytest.raises(ValueError, match="privileged"):
        evaluate(network, make_inputs(2, 3), torch.zeros(2, 3, 7, dtype=torch.int64))


def test_in_the_field_it_decides_alike_and_says_that_it_cannot_judge() -> None:
    network = make_network(KNOWING, spread=0.2).double()
    inputs, starts = make_inputs(2), torch.ones(2, dtype=torch.bool)
    alone = network.view(inputs, network.initial_memory(2), starts)
    with_never = network.view(told(inputs, 0.3), network.initial_memory(2), starts)
    assert (alone.can_judge, with_never.can_judge) == (False, True)
    assert alone.value.isnan().all()
    drawn = with_never.distribution.mode()
    assert torch.equal(alone.distribution.log_prob(drawn), with_never.distribution.log_prob(drawn))
