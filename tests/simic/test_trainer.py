"""Rounds of training: reports, stops between steps, states that go on bit for bit, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper.leyline import ConfigError, ForeignCheckpointError
from esper.simic.config import AnomalyConfig, EntropyConfig, PPOConfig, TrainingConfig
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.toys.grow_toy import GrowToy
from esper.simic.toys.rollout import ToyRolloutEnv, derive_row_seeds
from esper.simic.trainer import TIME_CRITIC_METRIC, PolicyTrainer, TrainerParts
from esper.tamiyo import NetworkConfig, build_network
from simic.learning import Trained, train_on

SMALL = NetworkConfig(
    kind="flat",
    hidden_size=16,
    core_size=16,
    flat_features=25,
    flat_slots=2,
    flat_blueprints=2,
    family_size=1,
)
EAGER, NEAR_OPTIMUM = 0.07275, 0.0895
"""GrowToy, mean over contexts: the eager rule, and a score near the optimum of .09425."""
CONFIG = TrainingConfig(num_updates=3, ppo=PPOConfig(num_minibatches=2))


def make_toy(num_rows: int = 4, *, seed: int = 0) -> ToyRolloutEnv[object]:
    env: ToyRolloutEnv[object] = ToyRolloutEnv(GrowToy(), derive_row_seeds(seed, num_rows))  # type: ignore[arg-type]
    return env


def make_trainer(config: TrainingConfig = CONFIG, *, num_rows: int = 4, num_steps: int = 16) -> PolicyTrainer:
    env = make_toy(num_rows)
    network = build_network(SMALL, env.layout, seed=1)
    learner = PPOLearner(LearnerParts(network=network, config=config, seed=2))
    return PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=learner,
            config=config,
            num_steps=num_steps,
            device=torch.device("cpu"),
            seed=3,
        )
    )


def test_a20_rounds_that_cut_episodes_report_how_stale_their_memories_are() -> None:
    whole = make_trainer()
    assert all("rollout/memory_drift" not in whole.run_round().metrics for _ in range(2))  # type: ignore[union-attr]
    cut = make_trainer(num_steps=5)
    reports = [cut.run_round() for _ in range(3)]
    drifts = [report.metrics["rollout/memory_drift"] for report in reports if report is not None]
    assert len(drifts) == 3
    assert all(0.0 < drift < 1.0 for drift in drifts)


def test_a_round_reports_its_episodes_steps_and_metrics() -> None:
    trainer = make_trainer()
    first, second = trainer.run_round(), trainer.run_round()
    assert first is not None
    assert second is not None
    assert (first.round, second.round) == (1, 2)
    assert (first.num_env_steps, second.num_env_steps) == (64, 128)
    assert len(first.episodes) == 4
    assert {"rollout/ep_rew_mean", "train/approx_kl", "train/explained_variance"} <= set(first.metrics)
    assert TIME_CRITIC_METRIC not in first.metrics, "a clock must have learned before it is judged"
    assert TIME_CRITIC_METRIC in second.metrics
    assert trainer.num_collected == 0


def test_a_network_for_other_operations_is_refused() -> None:
    env = make_toy(2)
    other = replace(env.layout, op_names=tuple(reversed(env.layout.op_names)))
    network = build_network(SMALL, other, seed=1)
    learner = PPOLearner(LearnerParts(network=network, config=CONFIG, seed=2))
    with pytest.raises(ConfigError, match="build the network for the environment's layout"):
        PolicyTrainer(
            TrainerParts(
                env=env,
                network=network,
                learner=learner,
                config=CONFIG,
                num_steps=16,
                device=torch.device("cpu"),
                seed=3,
            )
        )


def test_after_the_last_round_there_is_no_other() -> None:
    trainer = make_trainer(replace(CONFIG, num_updates=1))
    trainer.run_round()
    assert trainer.is_finished
    with pytest.raises(RuntimeError, match="all 1 rounds"):
        trainer.run_round()


@pytest.mark.parametrize("num_steps", [1, 5, 15])
def test_a_round_stopped_at_any_step_and_restored_elsewhere_ends_as_the_uninterrupted_one(
    num_steps: int,
) -> None:
    whole, cut, other = make_trainer(), make_trainer(), make_trainer()
    asked = iter(range(1, 1000))
    reports = [whole.run_round() for _ in range(2)]
    cut.run_round()
    assert cut.run_round(lambda: next(asked) >= num_steps) is None
    assert cut.num_collected == num_steps
    other.restore(cut.state())
    assert (other.round, other.num_collected) == (1, num_steps)
    resumed = other.run_round()
    last = reports[1]
    assert resumed is not None
    assert last is not None
    assert resumed.metrics == last.metrics
    assert resumed.episodes == last.episodes
    left, right = whole.state(), other.state()
    assert all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())


@pytest.mark.parametrize("field", ["round", "num_env_steps", "history", "learner", "buffer", "carry", "env"])
def test_a_state_without_a_part_is_refused(field: str) -> None:
    trainer = make_trainer()
    trainer.run_round()
    record = trainer.state()
    del record.state[field]
    with pytest.raises(ForeignCheckpointError, match="saved training"):
        make_trainer().restore(record)


def test_a_state_without_its_clock_is_refused() -> None:
    record = make_trainer().state()
    tensors = {name: x for name, x in record.tensors.items() if name != "time_critic"}
    with pytest.raises(ForeignCheckpointError, match="time critic"):
        make_trainer().restore(replace(record, tensors=tensors))


def test_findings_need_the_patience_that_the_settings_ask_for() -> None:
    strict = AnomalyConfig(patience_rounds=2, min_explained_variance=0.999999)
    trainer = make_trainer(replace(CONFIG, anomalies=strict))
    first, second = trainer.run_round(), trainer.run_round()
    assert first is not None
    assert second is not None
    assert not first.findings
    assert "blind_critic" in {finding.name for finding in second.findings}


def score_by_context(trained: Trained) -> dict[int, float]:
    """Return the mean undiscounted return in each context of GrowToy under the likeliest choices."""
    env, network = make_toy(64, seed=999), trained.network
    env.reset(torch.ones(64, dtype=torch.bool))
    memory, start = network.initial_memory(64), torch.ones(64, dtype=torch.bool)
    totals, inputs = torch.zeros(64), env.observe()
    for _ in range(16):
        with torch.no_grad():
            chosen = network.act(inputs, memory, start, is_greedy=True)
        step = env.step(chosen.actions)
        totals += step.reward
        inputs, memory, start = step.inputs, chosen.memory, torch.zeros_like(start)
    scores: dict[int, list[float]] = {}
    for summary, total in zip(step.summaries, totals.tolist(), strict=True):
        assert summary is not None
        scores.setdefault(int(str(summary["context"])), []).append(total)
    return {context: sum(values) / len(values) for context, values in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_growth_with_a_known_optimum_is_learned_beyond_the_eager_rule(seed: int) -> None:
    config = TrainingConfig(
        num_updates=120,
        gamma=0.99,
        ppo=PPOConfig(learning_rate=1e-3, num_minibatches=8),
        entropy=EntropyConfig(start=0.05, end=0.0),
    )
    network = replace(SMALL, hidden_size=64, core_size=64, is_recurrent=False)
    trained = train_on(make_toy(256, seed=seed), network, config, num_steps=16, seed=seed)
    assert trained.num_env_steps == 120 * 256 * 16
    scores = score_by_context(trained)
    assert len(scores) == 4
    mean = sum(scores.values()) / 4
    assert mean > EAGER, scores
    assert mean >= NEAR_OPTIMUM, scores
