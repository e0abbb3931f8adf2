"""Training on several ranks is training in one process on all their rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from esper.leyline import Observation, SingleProcess
from esper.simic.config import EntropyConfig, PPOConfig, TrainingConfig
from esper.simic.ppo import LearnerParts, PPOLearner, keep_gradients
from esper.simic.row_states import join_rows
from esper.simic.trainer import PolicyTrainer, RoundReport, TrainerParts
from esper.tamiyo import NetworkConfig, build_inputs, build_network
from esper.tolaria import StateRecord
from simic.growing import HORIZON, make_env
from simic.thread_ranks import ThreadRank, ThreadRanks

SMALL = NetworkConfig(hidden_size=16, token_size=8, family_size=3, attention_heads=2, core_size=16)
CONFIG = TrainingConfig(
    num_updates=3,
    is_sum_ordered=True,
    ppo=PPOConfig(learning_rate=1e-3, target_kl=0.0),
    entropy=EntropyConfig(start=0.01, end=0.01),
)
"""Minibatches of one row each, so that ranks have none in many of them."""


_ONE_AT_A_TIME = threading.Lock()
"""Ranks are threads here, and a host run borrows the process's random stream while it trains."""


def encode(observations: Sequence[Observation]) -> dict[str, Tensor]:
    inputs = build_inputs(observations, num_slots=3)
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}


def take_turns(method: Callable[..., object]) -> Callable[..., object]:
    def locked(*arguments: object) -> object:
        with _ONE_AT_A_TIME:
            return method(*arguments)

    return locked


def make_trainer(
    first_env: int, num_envs: int, collective: ThreadRank | SingleProcess, ranks: ThreadRanks | None
) -> PolicyTrainer:
    env, _ = make_env(num_envs, encode=encode, first_env=first_env, instances=tuple(range(8)))
    for name in ("reset", "step", "state", "restore"):
        setattr(env, name, take_turns(getattr(env, name)))
    network = build_network(SMALL, env.layout, seed=0).double()
    reduce = keep_gradients if ranks is None else partial(ranks.mean_gradients, collective.rank)
    parts = LearnerParts(
        network=network, config=CONFIG, seed=0, collective=collective, reduce_gradients=reduce
    )
    return PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=PPOLearner(parts),
            config=CONFIG,
            num_steps=HORIZON,
            device=torch.device("cpu"),
            seed=3,
            env_ids=tuple(range(first_env, first_env + num_envs)),
            collective=collective,
        )
    )


@dataclass
class Trained:
    """What one rank saw."""

    collected: StateRecord
    """In the middle of round 1."""
    reports: list[RoundReport]
    state: StateRecord


def train(trainer: PolicyTrainer) -> Trained:
    assert trainer.run_round(lambda: trainer.num_collected >= 4) is None
    collected, reports = trainer.state(), []
    while not trainer.is_finished:
        report = trainer.run_round()
        assert report is not None
        reports.append(report)
    return Trained(collected, reports, trainer.state())


def train_on_ranks(splits: Sequence[int]) -> list[Trained]:
    ranks = ThreadRanks(len(splits))
    results: dict[int, Trained] = {}

    def work(rank: int) -> None:
        with _ONE_AT_A_TIME:  # hosts and network draw their weights from that stream, too
            trainer = make_trainer(sum(splits[:rank]), splits[rank], ranks.rank(rank), ranks)
        results[rank] = train(trainer)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(splits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [results[rank] for rank in range(len(splits))]


@pytest.mark.battery("T26")
@pytest.mark.slow
@pytest.mark.parametrize("splits", [[2, 2], [1, 3]])
def test_a41_ranks_meet_the_same_hosts_and_learn_the_same_policy_as_one_process(splits: list[int]) -> None:
    """Round 1 is collected alike; three rounds of learning later the weights agree to 1e-10 in float64."""
    alone = train(make_trainer(0, 4, SingleProcess(), None))
    parts = train_on_ranks(splits)
    joined = join_rows([part.collected for part in parts])
    assert joined.state["env"] == alone.collected.state["env"]
    for name in ("buffer/actions", "buffer/reward", "buffer/mask_hash", "buffer/num_valid"):
        assert torch.equal(joined.tensors[name], alone.collected.tensors[name]), name
    final = join_rows([part.state for part in parts])
    for name, tensor in alone.state.tensors.items():
        torch.testing.assert_close(
            final.tensors[name],
            tensor,
            rtol=0,
            atol=1e-10,
            equal_nan=True,
            msg=partial("{}: {}".format, name),
        )
    for part in parts:
        for mine, whole in zip(part.reports, alone.reports, strict=True):
            assert mine.num_env_steps == whole.num_env_steps
            assert mine.metrics == pytest.approx(whole.metrics, rel=1e-6, abs=1e-9, nan_ok=True)
            assert mine.findings == whole.findings or len(mine.findings) == len(whole.findings)


@pytest.mark.slow
def test_every_rank_ends_with_the_same_policy() -> None:
    first, second = train_on_ranks([2, 2])
    weights = [name for name in first.state.tensors if name.startswith("learner/")]
    assert weights
    assert all(torch.equal(first.state.tensors[name], second.state.tensors[name]) for name in weights)
    assert first.reports[-1].metrics == second.reports[-1].metrics
