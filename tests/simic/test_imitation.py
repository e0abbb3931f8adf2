"""A start by imitation: what was demonstrated is what the rule did, and the network comes to do alike."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from esper.leyline import WAIT, Action, ConfigError, Decision, LifecycleOp, Observation
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.imitation import Demonstrator, ImitationReport, demonstrate, imitate
from esper.simic.imitation_config import ImitationConfig
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.rollout_buffer import RolloutBatch
from esper.tamiyo import NetworkConfig, RecurrentActorCritic, build_inputs, build_network
from simic.growing import HORIZON, make_env
from tolaria.small_run import germinate

SMALL = NetworkConfig(hidden_size=16, token_size=8, family_size=3, attention_heads=2, core_size=16)
CPU = torch.device("cpu")
PAY = torch.tensor([[0.0, 0.0, 0.3, 0.0, -0.1, 0.2]] * 2)
"""[E, T]; both hosts look alike."""


class GrowAtOnce:
    """Plants in the first slot in its second epoch, and asks for the impossible in its fourth."""

    def __init__(self) -> None:
        self.num_decisions = 0
        self.num_resets = 0

    def reset(self) -> None:
        self.num_decisions = 0
        self.num_resets += 1

    def decide(self, observation: Observation) -> Decision:
        self.num_decisions += 1
        if self.num_decisions == 2:
            return Decision(action=germinate("block1"))
        if self.num_decisions == 4:
            return Decision(action=Action(op=LifecycleOp.FOSSILIZE, slot="block1"))
        return Decision(action=WAIT)

    def state(self) -> dict[str, object]:
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """There is nothing to restore."""


def play(num_rounds: int) -> tuple[list[RolloutBatch], RecurrentActorCritic, PPOLearner, list[GrowAtOnce]]:
    env, _ = make_env(2, encode=partial(build_inputs, num_slots=3))
    network = build_network(SMALL, env.layout, seed=0)
    config = TrainingConfig(
        ppo=PPOConfig(num_minibatches=2), imitation=ImitationConfig(num_rounds=num_rounds)
    )
    learner = PPOLearner(LearnerParts(network=network, config=config, seed=0))
    teachers: list[GrowAtOnce] = []

    def build() -> GrowAtOnce:
        teachers.append(GrowAtOnce())
        return teachers[-1]

    batches = demonstrate(
        Demonstrator(env, network, build), env, learner, config, num_steps=HORIZON, device=CPU
    )
    return batches, network, learner, teachers


def learn_from(
    batches: list[RolloutBatch], network: RecurrentActorCritic, learner: PPOLearner, epochs: int
) -> ImitationReport:
    settings = ImitationConfig(epochs=epochs, learning_rate=3e-3, doubt_nats=0.0)
    generator = torch.Generator().manual_seed(0)
    return imitate(network, learner.value_normalizer, batches, settings, gamma=1.0, generator=generator)


def find_error(network: RecurrentActorCritic, learner: PPOLearner, batch: RolloutBatch) -> float:
    """The critic's squared error, as a share of the variance of the returns."""
    with torch.no_grad():
        scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    returns = batch.steps.reward.flip(1).cumsum(1).flip(1)
    judged = learner.value_normalizer.denormalize(scored.values)
    return float((judged - returns).square().mean()) / float(returns.var())


def test_each_row_is_played_by_a_teacher_of_its_own_that_is_reset_with_its_hosts() -> None:
    batches, _, _, teachers = play(2)
    assert [teacher.num_resets for teacher in teachers] == [2, 2]
    assert [batch.actions.shape[:2] for batch in batches] == [(2, HORIZON)] * 2
    ops = list(LifecycleOp)
    for batch in batches:
        for row in batch.actions[..., 0].tolist():
            assert [ops[op] for op in row] == [LifecycleOp.WAIT, LifecycleOp.GERMINATE] + [WAIT.op] * 4


def test_the_network_comes_to_do_what_was_done_and_to_know_what_it_came_to() -> None:
    played, network, learner, _ = play(2)
    batches = [replace(batch, steps=batch.steps._replace(reward=PAY)) for batch in played]
    report = learn_from(batches, network, learner, 150)
    assert report.num_decisions == sum(int(batch.learn.sum()) for batch in batches) > 0
    assert report.nats_last < 0.1 < report.nats_first
    batch = batches[0]
    with torch.no_grad():
        scored = network.evaluate(batch.inputs, batch.actions, batch.memory, batch.steps.episode_start)
    assert float(scored.log_probs.sum(dim=-1)[batch.learn].exp().min()) > 0.8
    assert find_error(network, learner, batch) < 0.1


def test_a_policy_stops_following_while_it_still_doubts_and_its_critic_learns_on() -> None:
    played, network, learner, _ = play(1)
    batches = [replace(batch, steps=batch.steps._replace(reward=PAY)) for batch in played]
    settings = ImitationConfig(epochs=150, learning_rate=3e-3, doubt_nats=0.8)
    generator = torch.Generator().manual_seed(0)
    report = imitate(network, learner.value_normalizer, batches, settings, gamma=1.0, generator=generator)
    assert 0.5 < report.nats_last <= 0.8
    assert find_error(network, learner, batches[0]) < 0.1


class Unsayable(GrowAtOnce):
    """Asks for a ramp of a length that is not on offer."""

    def decide(self, observation: Observation) -> Decision:
        return Decision(action=germinate("block1", tempo=4))


def test_a_teacher_who_asks_for_what_a_network_cannot_say_is_refused_with_what_is_on_offer() -> None:
    env, _ = make_env(2, encode=partial(build_inputs, num_slots=3))
    network = build_network(SMALL, env.layout, seed=0)
    env.reset(torch.ones(2, dtype=torch.bool))
    start = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"GERMINATE cannot be said .*tempo=4: the action space offers"):
        Demonstrator(env, network, Unsayable).act(env.observe(), network.initial_memory(2), start)


def test_rows_without_a_decision_count_for_nothing() -> None:
    """A forced step teaches nothing, and must not look like perfect agreement either."""
    played, network, learner, _ = play(1)
    forced = [replace(batch, num_valid=torch.ones_like(batch.num_valid)) for batch in played]
    report = learn_from(forced, network, learner, 2)
    assert report.num_decisions == 0
    assert math.isnan(report.nats_first)
    assert math.isnan(report.nats_last)


def test_imitation_of_nothing_and_of_no_module_is_refused() -> None:
    batches, network, learner, _ = play(1)
    with pytest.raises(ValueError, match="no batch"):
        learn_from([], network, learner, 1)
    env, _ = make_env(2, encode=partial(build_inputs, num_slots=3))
    with pytest.raises(TypeError, match=r"imitation needs an nn\.Module"):
        imitate(
            Demonstrator(env, network, GrowAtOnce),
            learner.value_normalizer,
            batches,
            ImitationConfig(),
            gamma=1.0,
            generator=torch.Generator(),
        )
