"""Learning on small worlds: one call builds network, learner and trainer; another plays the result."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from esper.simic.config import TrainingConfig
from esper.simic.interfaces import RolloutEnv
from esper.simic.ppo import LearnerParts, PPOLearner
from esper.simic.trainer import PolicyTrainer, RoundReport, TrainerParts
from esper.tamiyo import NetworkConfig, RecurrentActorCritic, build_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network after its rounds, and what each round reported."""

    network: RecurrentActorCritic
    learner: PPOLearner
    reports: tuple[RoundReport, ...]

    @property
    def num_env_steps(self) -> int:
        return self.reports[-1].num_env_steps


def train_on(
    env: RolloutEnv, network_config: NetworkConfig, config: TrainingConfig, *, num_steps: int, seed: int
) -> Trained:
    """Train a fresh network on an environment, `num_steps` steps per row and round."""
    network = build_network(network_config, env.layout, seed=seed)
    learner = PPOLearner(LearnerParts(network=network, config=config, seed=seed))
    trainer = PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=learner,
            config=config,
            num_steps=num_steps,
            device=torch.device("cpu"),
            seed=seed,
        )
    )
    reports = []
    while not trainer.is_finished:
        report = trainer.run_round()
        assert report is not None
        reports.append(report)
    return Trained(network=network, learner=learner, reports=tuple(reports))


def play(
    env: RolloutEnv,
    trained: Trained,
    *,
    num_episodes: int,
    is_greedy: bool = True,
    max_steps: int = 10_000,
) -> float:
    """Return the mean undiscounted return of `num_episodes` episodes in every row."""
    network, normalizer = trained.network, trained.learner.input_normalizer
    generator = torch.Generator().manual_seed(0)
    total, rows = 0.0, torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(num_episodes):
        env.reset(rows)
        memory, start, running = network.initial_memory(env.num_envs), rows.clone(), rows.clone()
        inputs = env.observe()
        for _ in range(max_steps):
            with torch.no_grad():
                noise = torch.rand(env.num_envs, len(env.layout.heads), generator=generator)
                step = network.act(
                    normalizer.normalize(inputs), memory, start, noise=noise, is_greedy=is_greedy
                )
            result = env.step(step.actions)
            total += float(result.reward[running & result.is_valid].sum())
            running &= ~result.ended
            inputs, memory, start = result.inputs, step.memory, torch.zeros_like(start)
            if not bool(running.any()):
                break
    return total / (num_episodes * env.num_envs)
