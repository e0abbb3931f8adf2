"""Settings to a policy in training: hosts, rewards, environment, network, learner, trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from esper.leyline import derive_seed
from esper.runtime.devices import resolve_device, set_threads
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import ActionSizes, HostFactory
from esper.simic import (
    GrowthEnvParts,
    GrowthRolloutEnv,
    InstancePlan,
    LearnerParts,
    NeverRuns,
    PolicyTrainer,
    PPOLearner,
    RewardState,
    TrainerParts,
    build_rubric,
)
from esper.tamiyo import NetworkConfig, RecurrentActorCritic, build_inputs, build_network
from esper.tolaria import SerialFleet

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAssembly:
    """A policy in training, ready for its first round."""

    trainer: PolicyTrainer
    env: GrowthRolloutEnv
    network: RecurrentActorCritic
    network_config: NetworkConfig
    """What the network was built from, sizes filled in."""
    horizon_epochs: int


def assemble_training(config: ExperimentConfig) -> TrainingAssembly:
    """Build everything that the training of one policy needs.

    Raises:
        EsperError: If a name is unknown, data is missing, or a setting does not fit.
    """
    set_threads(config.num_threads)
    factory = HostFactory(config)
    sizes, horizon = factory.measure_sizes(), factory.horizon_epochs
    env = build_env(config, factory, sizes)
    network_config = _fill_sizes(config.network, sizes)
    network = build_network(network_config, env.layout, seed=config.seed)
    device = resolve_device(config.host.device)
    network.to(device)
    learner = PPOLearner(
        LearnerParts(network=network, config=config.training, seed=derive_seed(config.seed, "learner"))
    )
    num_steps = config.training.rollout.num_steps
    trainer = PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=learner,
            config=config.training,
            num_steps=horizon if num_steps is None else num_steps,
            device=device,
            seed=derive_seed(config.seed, "policy-actions"),
        )
    )
    return TrainingAssembly(
        trainer=trainer,
        env=env,
        network=network,
        network_config=network_config,
        horizon_epochs=horizon,
    )


def build_env(config: ExperimentConfig, factory: HostFactory, sizes: ActionSizes) -> GrowthRolloutEnv:
    """Build the environment of growing hosts that a configuration describes."""
    envs, horizon = config.envs, factory.horizon_epochs
    seeds = tuple(range(envs.first_seed, envs.first_seed + envs.num_hosts))
    starts = tuple(sorted({int(part * horizon) for part in envs.start_fractions}))
    rubric = build_rubric(config.reward, discount=config.training.gamma)
    encode = partial(build_inputs, num_slots=sizes.num_slots, num_blueprints=sizes.num_blueprints)
    # Places need hosts before the first reset says which; these are never trained.
    places = range(envs.first_seed, envs.first_seed + envs.num_envs)
    return GrowthRolloutEnv(
        GrowthEnvParts(
            fleet=SerialFleet(factory.build, places, encode=encode),
            never_runs=NeverRuns(
                factory.build, start_epochs=tuple(epoch for epoch in starts if epoch), max_runs=envs.num_hosts
            ),
            plan=InstancePlan(
                seed=derive_seed(config.seed, "instances"), instances=seeds, start_epochs=starts
            ),
            build_reward=lambda: RewardState(rubric),
            env_ids=tuple(range(envs.num_envs)),
            horizon_semantics=config.training.rollout.horizon_semantics,
        )
    )


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _fill_sizes(network: NetworkConfig, sizes: ActionSizes) -> NetworkConfig:
    """Give a flat network outputs for as many slots and blueprints as the hosts have."""
    if network.kind != "flat":
        return network
    return replace(
        network,
        flat_slots=network.flat_slots or sizes.num_slots,
        flat_blueprints=network.flat_blueprints or sizes.num_blueprints,
    )
