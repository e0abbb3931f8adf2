"""A small made-up training of a policy as events and records: returns rise, the critic is blind at first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from esper.leyline import (
    AnomalyFound,
    EpisodeFinished,
    Event,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RunFinished,
)
from esper.nissa import Record
from nissa.sample_run import numbered

NUM_ENVS = 2
STEPS_PER_ROUND = 20


def started_training(num_rounds: int = 20) -> PolicyTrainingStarted:
    """The first event."""
    return PolicyTrainingStarted(
        epoch=0,
        task="digits",
        seed=7,
        num_envs=NUM_ENVS,
        num_rounds=num_rounds,
        horizon_epochs=10,
        num_parameters=51_000,
    )


def ended_episode(round_number: int, env_id: int, reason: str = "horizon") -> EpisodeFinished:
    """One host; its id is its own, as in a real training."""
    return EpisodeFinished(
        epoch=round_number,
        instance=10_000 + 10 * round_number + env_id,
        env_id=env_id,
        reason=reason,
        total_reward=0.01 * round_number,
        num_steps=10,
        metric=0.8,
        never_metric=0.75,
        added_params=100,
        host_params=277,
        flops_spent=300,
        never_grow_flops=200,
        num_fossils=1,
        num_refused=0,
        ops={"WAIT": 7, "GERMINATE": 3},
    )


def updated(round_number: int, **others: float) -> PolicyUpdated:
    """One round: the return is a hundredth of its number."""
    metrics = {
        "rollout/ep_rew_mean": 0.01 * round_number,
        "rollout/gain_mean": 0.002 * round_number,
        "rollout/fossils_mean": 0.5,
        "rollout/fossilize_rate": 0.25,
        "rollout/flops_ratio_mean": 1.5,
        "rollout/op_share/WAIT": 0.75,
        "rollout/op_share/GERMINATE": 0.25,
        "rollout/num_quarantined": 0.0,
        "rollout/time_explained_variance": 0.1,
        "train/entropy/op": 0.9,
        "train/explained_variance": -1.0 + 0.1 * round_number,
        "train/approx_kl": 0.002,
        "train/clip_fraction": 0.05,
        **others,
    }
    return PolicyUpdated(epoch=round_number, num_env_steps=STEPS_PER_ROUND * round_number, metrics=metrics)


def blind_critic(round_number: int) -> AnomalyFound:
    """A sign of trouble, as the trainer tells it."""
    return AnomalyFound(
        epoch=round_number,
        name="blind_critic",
        value=0.001 * round_number,
        threshold=0.05,
        advice="check gamma",
    )


def round_events(number: int) -> Iterator[Event]:
    """Everything that one round tells: an anomaly in rounds 2 and 3, a row in quarantine in round 3."""
    for env_id in range(NUM_ENVS):
        yield ended_episode(number, env_id, "diverged" if (number, env_id) == (2, 1) else "horizon")
    if number == 3:
        yield Notice(epoch=3, text="environment 1 left out from step 4 on: the reward reached nan")
    yield updated(number, **({"rollout/num_quarantined": 1.0} if number == 3 else {}))
    if number in (2, 3):
        yield blind_critic(number)


def training_events(num_rounds: int = 20, told_rounds: int | None = None) -> Iterator[Event]:
    """The whole training in order, or its first rounds, as if it were running still."""
    yield started_training(num_rounds)
    yield Notice(epoch=0, text="ppo.target_kl has no effect")
    for number in range(1, (num_rounds if told_rounds is None else told_rounds) + 1):
        yield from round_events(number)
    if told_rounds is None:
        yield RunFinished(epoch=num_rounds, reason="horizon")


def resumed_training(*, num_rounds: int, saved_round: int, lost_round: int) -> list[Record]:
    """A training that was killed after `lost_round` and went on from `saved_round`."""
    first = list(training_events(num_rounds, lost_round))
    saved = len(list(training_events(num_rounds, saved_round))) - 1
    lost = [
        replace(e, metrics={}) if isinstance(e, PolicyUpdated) and e.epoch == lost_round else e for e in first
    ]
    again: list[Event] = [
        replace(started_training(num_rounds), epoch=saved_round, is_resumed=True, rewinds_to_seq=saved)
    ]
    for number in range(saved_round + 1, num_rounds + 1):
        again += round_events(number)
    again.append(RunFinished(epoch=num_rounds, reason="horizon"))
    later = [replace(record, wall_time=record.wall_time + 500.0)
             for record in numbered(again, attempt=1, first_seq=len(lost))]  # fmt: skip
    return [*numbered(lost), *later]
