"""The start of a training by imitation: which rule plays, on which hosts, and what is told of it."""

from __future__ import annotations

from functools import partial

import torch

from esper.leyline import TamiyoPolicy, derive_seed
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.policies import find_policy
from esper.runtime.training import TrainingAssembly
from esper.simic import Demonstrator, ImitationReport, demonstrate, imitate


def check_teacher(config: ExperimentConfig) -> None:
    """Refuse a teacher that does not exist or cannot be loaded, if one is asked for; writes nothing.

    Raises:
        UnknownNameError: If there is no such teacher.
        EsperError: If its file is missing, damaged or of another contract.
    """
    if config.training.imitation.num_rounds > 0:
        _build_teacher(config)


def start_by_imitation(config: ExperimentConfig, assembly: TrainingAssembly) -> ImitationReport | None:
    """Let the network of a fresh training learn from a rule first, if the settings ask for it.

    The rule grows hosts of its own; training then begins with the same hosts as without it.

    Returns:
        What imitation came to; None if none is asked for.

    Raises:
        UnknownNameError: If there is no such teacher.
        ConfigError: If it asks for something that the action space does not offer.
    """
    settings, learner = config.training.imitation, assembly.learner
    if settings.num_rounds == 0:
        return None
    check_teacher(config)
    env = assembly.envs.build(range(config.envs.num_envs))
    try:
        build = partial(_build_teacher, config)
        batches = demonstrate(
            Demonstrator(env, assembly.network, build),
            env,
            learner,
            config.training,
            num_steps=assembly.trainer.num_steps,
            device=assembly.trainer.device,
        )
    finally:
        env.close()
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "imitation"))
    return imitate(
        assembly.network,
        learner.value_normalizer,
        batches,
        settings,
        gamma=config.training.gamma,
        generator=generator,
    )


def describe_imitation(report: ImitationReport, teacher: str) -> str:
    """Return one line for a person."""
    if report.num_decisions == 0:
        return f"nothing was imitated: {teacher} had no decision to make"
    return (
        f"imitated {teacher} in {report.num_decisions:,} decisions: {report.nats_first:.2f} nats per "
        f"decision at first, {report.nats_last:.2f} in the end"
    )


def _build_teacher(config: ExperimentConfig) -> TamiyoPolicy:
    seed = derive_seed(config.seed, "teacher")
    return find_policy(config.training.imitation.teacher, config, seed=seed, is_greedy=True).policy
