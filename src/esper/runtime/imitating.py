"""The start of a training by imitation: which rules play, on which hosts, and what is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import safetensors.torch
import torch

from esper.leyline import Collective, TamiyoPolicy, derive_seed
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import find_policy, refuse_without_scores
from esper.runtime.training import TrainingAssembly
from esper.simic import (
    Demonstrator,
    ImitationReport,
    RolloutBatch,
    choose_best,
    demonstrate,
    imitate,
    join_batches,
    pack_batch,
    unpack_batch,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImitatedStart:
    """What a start by imitation came to."""

    report: ImitationReport
    num_hosts: tuple[tuple[str, int], ...]
    """Teacher -> hosts on which its life came to most and was learned from."""


def check_teachers(config: ExperimentConfig) -> None:
    """Refuse a teacher that does not exist or cannot be loaded, if any is asked for; writes nothing.

    Raises:
        UnknownNameError: If there is no such teacher.
        ConfigError: If it needs scores that the hosts are not given; every host of the training would pay.
        EsperError: If its file is missing, damaged or of another contract.
    """
    settings = config.training.imitation
    if settings.num_rounds > 0:
        for teacher in settings.teachers:
            _build_teacher(config, teacher)
            refuse_without_scores(teacher, config)


def start_by_imitation(
    config: ExperimentConfig, assembly: TrainingAssembly, collective: Collective
) -> ImitatedStart | None:
    """Let the network of a fresh training learn from rules first, if the settings ask for it.

    Every rule grows the same hosts, and each host's best life is learned from; training then begins with the
    same hosts as without it. Each rank plays on its own hosts and learns from the lives of all, so that all
    end with the same weights.

    Args:
        config: The experiment.
        assembly: Of this rank.
        collective: Of all ranks.

    Returns:
        What imitation came to; None if none is asked for.

    Raises:
        UnknownNameError: If there is no such teacher.
        ConfigError: If one asks for something that the action space does not offer.
    """
    settings, learner = config.training.imitation, assembly.learner
    if settings.num_rounds == 0:
        return None
    check_teachers(config)
    lives = [_play(config, assembly, teacher) for teacher in settings.teachers]
    batches, wins = [], Counter(dict.fromkeys(settings.teachers, 0))
    for alternatives in zip(*lives, strict=True):
        best, chosen = choose_best(alternatives)
        batches.append(_share(best, collective, assembly.trainer.device))
        wins.update(settings.teachers[which] for which in chosen)
    counts = collective.all_sum([float(wins[teacher]) for teacher in settings.teachers])
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "imitation"))
    report = imitate(
        assembly.network,
        learner.value_normalizer,
        batches,
        settings,
        gamma=config.training.gamma,
        generator=generator,
    )
    num_hosts = zip(settings.teachers, map(int, counts), strict=True)
    return ImitatedStart(report=report, num_hosts=tuple(num_hosts))


def _share(batch: RolloutBatch, collective: Collective, device: torch.device) -> RolloutBatch:
    """Return the rows of all ranks."""
    mine = safetensors.torch.save({name: x.contiguous() for name, x in pack_batch(batch).items()})
    rows = [safetensors.torch.load(data) for data in collective.gather_bytes(mine)]
    return join_batches(
        [unpack_batch({name: tensor.to(device) for name, tensor in row.items()}) for row in rows]
    )


def describe_imitation(start: ImitatedStart) -> str:
    """Return one line for a person."""
    report, names = start.report, _name_teachers(start.num_hosts)
    if report.num_decisions == 0:
        return f"nothing was imitated: {names} had no decision to make"
    return (
        f"imitated {names} in {report.num_decisions:,} decisions: {report.nats_first:.2f} nats per "
        f"decision at first, {report.nats_last:.2f} in the end"
    )


def _name_teachers(num_hosts: Sequence[tuple[str, int]]) -> str:
    if len(num_hosts) == 1:
        return num_hosts[0][0]
    return ", ".join(f"{name} (on {count} hosts)" for name, count in num_hosts)


def _play(config: ExperimentConfig, assembly: TrainingAssembly, teacher: str) -> list[RolloutBatch]:
    """Return one teacher's rounds, on the hosts that every teacher meets."""
    env = assembly.envs.build(assembly.env_ids)
    try:
        return demonstrate(
            Demonstrator(env, assembly.network, partial(_build_teacher, config, teacher)),
            env,
            assembly.learner,
            config.training,
            num_steps=assembly.trainer.num_steps,
            device=assembly.trainer.device,
        )
    finally:
        env.close()


def _build_teacher(config: ExperimentConfig, teacher: str) -> TamiyoPolicy:
    return find_policy(teacher, config, seed=derive_seed(config.seed, "teacher"), is_greedy=True).policy
