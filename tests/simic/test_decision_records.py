"""What is told of a training's steps: what was given, drawn, refused and paid, of real steps alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from esper.leyline import JsonValue
from esper.runtime.round_facts import read_step
from esper.simic.carry_rows import ToldStep
from esper.simic.config import PPOConfig, TrainingConfig
from esper.simic.decision_records import DecisionRecorder
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.trainer import PolicyTrainer, TrainerParts
from esper.tamiyo import NetworkConfig, build_inputs, build_network
from simic.growing import HORIZON, MetricReward, make_env

SMALL = NetworkConfig(hidden_size=16, token_size=8, family_size=3, attention_heads=2, core_size=16)
CONFIG = TrainingConfig(num_updates=2, ppo=PPOConfig(num_minibatches=1))
NUM_ENVS = 2


def make_trainer(observations: str) -> tuple[PolicyTrainer, list[MetricReward]]:
    env, rewards = make_env(NUM_ENVS, encode=partial(build_inputs, num_slots=4))
    network = build_network(SMALL, env.layout, seed=0)
    trainer = PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=PPOLearner(LearnerParts(network=network, config=CONFIG, seed=0)),
            config=CONFIG,
            num_steps=HORIZON,
            device=torch.device("cpu"),
            seed=3,
            record=DecisionRecorder(env, observations=observations),
        )
    )
    return trainer, rewards


def collect(observations: str) -> tuple[tuple[ToldStep, ...], list[MetricReward]]:
    trainer, rewards = make_trainer(observations)
    report = trainer.run_round()
    assert report is not None
    return report.told, rewards


def part(step: ToldStep, name: str) -> dict[str, JsonValue]:
    found = step[name]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("observations", "kept"), [("all", {0, 1}), ("first", {0}), ("none", set())])
def test_features_are_kept_of_the_hosts_that_were_asked_for(observations: str, kept: set[int]) -> None:
    told, _ = collect(observations)
    decisions = [part(step, "decision") for step in told]
    assert {decision["env_id"] for decision in decisions if decision["observation"]} == kept
    assert len(decisions) == NUM_ENVS * HORIZON
    assert all(decision["legal"] and decision["probabilities"] for decision in decisions)


def test_what_is_told_is_what_the_reward_saw() -> None:
    told, rewards = collect("first")
    for row in range(NUM_ENVS):
        facts = rewards[row].facts[-HORIZON:]
        steps = [step for step in told if part(step, "decision")["env_id"] == row]
        total = 0.0
        for fact, step in zip(facts, steps, strict=True):
            decision, reward = part(step, "decision"), part(step, "reward")
            total += float(str(reward["total"]))
            assert decision["epoch"] == fact.before.signals.epoch
            assert reward["epoch"] == fact.before.signals.epoch + 1
            assert decision["op"] == fact.result.requested.op.value
            assert decision["refusal"] == fact.result.refusal
            assert reward["return_so_far"] == pytest.approx(total)


def test_probabilities_are_of_the_hosts_own_options_and_none_of_what_is_illegal() -> None:
    told, _ = collect("none")
    for step in told:
        event, reward = read_step(step, 7)
        assert event.event_class is reward.event_class
        probabilities, legal = part(step, "decision")["probabilities"], part(step, "decision")["legal"]
        assert isinstance(probabilities, dict)
        assert isinstance(legal, dict)
        assert list(probabilities) == list(legal)
        for head, shares in probabilities.items():
            assert isinstance(shares, list)
            mask = legal[head]
            assert isinstance(mask, list)
            assert sum(map(float, map(str, shares))) == pytest.approx(1.0, abs=2e-3)
            assert all(ok or share == 0.0 for ok, share in zip(mask, shares, strict=True))


def test_a_round_that_stops_in_the_middle_tells_what_one_that_does_not_stop_tells() -> None:
    whole, _ = collect("all")
    trainer, _ = make_trainer("all")
    assert trainer.run_round(lambda: trainer.num_collected >= 3) is None
    other, _ = make_trainer("all")
    other.restore(trainer.state())
    report = other.run_round()
    assert report is not None
    assert report.told == whole


def test_a_round_is_told_once() -> None:
    trainer, _ = make_trainer("none")
    for _ in range(2):
        report = trainer.run_round()
        assert report is not None
        assert len(report.told) == NUM_ENVS * HORIZON
