"""Two faults of recurrent learners, on the real network: bootstraps and memories that are one step off.

Two layers of memory and a critic with a memory of its own, so that a wrong slice of either shows.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper.simic.collector import build_carry, collect_rollout
from esper.simic.config import RolloutConfig, TrainingConfig
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.rollout_buffer import RolloutBatch, TamiyoRolloutBuffer
from esper.tamiyo import NetworkConfig, RecurrentActorCritic, build_network

from .tiny_networks import (
    GROWTH_LIKE,
    NUM_BLUEPRINTS,
    NUM_FEATURES,
    NUM_SLOTS,
    Script,
    TypedEnv,
    build_parts,
)

NETWORK = NetworkConfig(
    kind="flat",
    hidden_size=12,
    core_size=10,
    core_layers=2,
    flat_features=NUM_FEATURES,
    flat_slots=NUM_SLOTS,
    flat_blueprints=NUM_BLUEPRINTS,
    family_size=1,
)
CUTS = frozenset({(0, 0), (1, 1), (2, 0)})
"""Row and episode that end by truncation."""


def collect(
    num_rollouts: int, *, dtype: torch.dtype, num_steps: int, resets_within_rows: bool
) -> tuple[list[RolloutBatch], TypedEnv, RecurrentActorCritic]:
    """Return rollouts of three scripted rows, the environment after them, and the network."""
    network = build_network(NETWORK, GROWTH_LIKE, seed=3).to(dtype)
    with torch.no_grad():  # away from a nearly uniform policy and a critic that says nothing
        generator = torch.Generator().manual_seed(4)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    env = TypedEnv(3, Script(lengths=(5, 7), truncated_episodes=CUTS), dtype=dtype)
    learner = PPOLearner(LearnerParts(network=network, config=TrainingConfig(), seed=0))
    parts = build_parts(learner, RolloutConfig(resets_within_rows=resets_within_rows))
    device = torch.device("cpu")
    carry = build_carry(network, range(3), seed=5)
    batches = []
    for _ in range(num_rollouts):
        buffer = TamiyoRolloutBuffer(num_envs=3, num_steps=num_steps, device=device)
        batches.append(collect_rollout(env, network, buffer, carry, parts).batch)
    return batches, env, network


def value_after(
    network: RecurrentActorCritic, batch: RolloutBatch, row: int, last: int, features: Tensor
) -> float:
    """Return the value of what followed a step, by one row stepped alone from its first step on."""
    memory = batch.memory.select(torch.tensor([row]))
    for t in range(last + 1):
        now = {name: x[row : row + 1, t] for name, x in batch.inputs.items()}
        memory = network.act(now, memory, batch.steps.episode_start[row : row + 1, t]).memory
    inputs = {name: x[:1, 0] for name, x in batch.inputs.items()} | {"features": features[None]}
    return float(network.compute_values(inputs, memory, torch.zeros(1, dtype=torch.bool)))


def shown(env: TypedEnv, row: int, episode: int, t: int) -> Tensor:
    """Return what the scripted environment shows there."""
    saved = env.episode[row], env.t[row]
    env.episode[row], env.t[row] = episode, t
    features = env.observe()["features"][row]
    env.episode[row], env.t[row] = saved
    return features


def test_bug02_a_cut_is_worth_what_one_more_step_of_that_row_alone_would_say() -> None:
    (batch,), env, network = collect(1, dtype=torch.float64, num_steps=15, resets_within_rows=True)
    cuts = batch.steps.truncated.nonzero().tolist()
    assert {(row, t) for row, t in cuts} == {(0, 4), (1, 11), (2, 4)}
    for row, t in cuts:
        episode = 1 if row == 1 else 0
        length = (5, 7)[(row + episode) % 2]
        expected = value_after(network, batch, row, t, shown(env, row, episode, length))
        stored = float(batch.bootstrap.next_value[row, t])
        assert stored == pytest.approx(expected, abs=1e-6)
        # Neither the state that was acted upon, nor the first of the next episode.
        assert abs(float(batch.value[row, t]) - expected) > 1e-4
        assert abs(float(batch.value[row, t + 1]) - expected) > 1e-4


def test_bug02_a_row_that_goes_on_is_worth_what_its_pending_observation_says() -> None:
    (batch,), env, network = collect(1, dtype=torch.float64, num_steps=4, resets_within_rows=False)
    for row in range(3):
        expected = value_after(network, batch, row, 3, shown(env, row, 0, 4))
        assert float(batch.bootstrap.last_value[row]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("resets_within_rows", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_bug03_the_stored_memory_is_the_one_before_the_first_step_of_each_row(
    resets_within_rows: bool, dtype: torch.dtype, tolerance: float
) -> None:
    batches, _, network = collect(3, dtype=dtype, num_steps=3, resets_within_rows=resets_within_rows)
    for batch in batches:
        scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
        ratios = (scored.log_probs.detach() - batch.log_probs).exp()[batch.steps.valid]
        torch.testing.assert_close(ratios, torch.ones_like(ratios), rtol=0, atol=tolerance)
        values = scored.values.detach()[batch.steps.valid]
        torch.testing.assert_close(values, batch.value[batch.steps.valid], rtol=0, atol=tolerance)
    # The second rollout starts in mid-episode: there a memory one step older or newer would show.
    assert bool(batches[1].memory.hidden.any())
    forgotten = network.initial_memory(3)
    second = batches[1]
    scored = network.evaluate(second.inputs, second.actions, forgotten, second.steps.episode_start)
    assert float((scored.log_probs.detach() - second.log_probs).abs().max()) > 100 * tolerance
