"""Settings to a policy in training: hosts, rewards, environment, network, learner, trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from esper.leyline import Collective, ConfigError, derive_seed
from esper.runtime.devices import resolve_device, set_threads
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.families import ActionSizes, HostFactory, find_narrow
from esper.runtime.fault_points import FaultPoints
from esper.runtime.fleet_choice import FleetChoice, choose_fleet
from esper.runtime.fleets import build_fleet
from esper.runtime.ranks.lone import Pace, Ranks
from esper.runtime.user_code import build_own_terms
from esper.simic import (
    DecisionRecorder,
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
    count_minibatches,
)
from esper.tamiyo import NetworkConfig, RecurrentActorCritic, build_inputs, build_network
from esper.tolaria import Fleet, FleetConfig

if TYPE_CHECKING:
    from torch import nn

_LIVES_OF_A_BLOCK = 16
"""Never-grown hosts that a fused fleet trains together: enough to pay, few enough to wait for."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAssembly:
    """A policy in training, ready for its first round."""

    trainer: PolicyTrainer
    learner: PPOLearner
    envs: EnvBuilder
    """Makes further environments of the same hosts."""
    env: GrowthRolloutEnv
    network: RecurrentActorCritic
    network_config: NetworkConfig
    """What the network was built from, sizes filled in."""
    horizon_epochs: int
    pace: Pace
    """Of its rollouts."""
    env_ids: range
    """Numbers of this rank's environments."""


def assemble_training(
    config: ExperimentConfig, ranks: Ranks, points: FaultPoints | None = None
) -> TrainingAssembly:
    """Build everything that one rank needs to train a policy together with the others.

    Args:
        config: The same on all ranks, but for the device.
        ranks: Of this training.
        points: Where a drill may strike; None = nowhere.

    Raises:
        EsperError: If a name is unknown, data is missing, or a setting does not fit.
    """
    set_threads(config.num_threads)
    env_ids = deal_rows(config.envs.num_envs, ranks.collective)
    # Asked here as well as before every update: a number that does not fit must not cost a rollout first.
    count_minibatches(config.training.ppo, config.envs.num_envs)
    builder = EnvBuilder(config, ranks.collective)
    env, horizon = builder.build(env_ids), builder.horizon_epochs
    network_config = _fill_sizes(config.network, builder.sizes)
    network = build_network(network_config, env.layout, seed=config.seed)
    device = resolve_device(config.host.device)
    network.to(device)
    reduce_gradients = ranks.reduce_gradients if points is None else points.reduce(ranks.reduce_gradients)
    learner = PPOLearner(
        LearnerParts(
            network=network,
            config=config.training,
            seed=derive_seed(config.seed, "learner"),
            collective=ranks.collective,
            reduce_gradients=reduce_gradients,
        )
    )
    num_steps = horizon if config.training.rollout.num_steps is None else config.training.rollout.num_steps
    pace = ranks.pace(num_steps)
    trainer = PolicyTrainer(
        TrainerParts(
            env=env,
            network=network,
            learner=learner,
            config=config.training,
            num_steps=num_steps,
            device=device,
            seed=derive_seed(config.seed, "policy-actions"),
            env_ids=tuple(env_ids),
            collective=ranks.collective,
            pace=pace,
            record=DecisionRecorder(env, observations=config.telemetry.observations),
        )
    )
    return TrainingAssembly(
        trainer=trainer,
        learner=learner,
        envs=builder,
        env=env,
        network=network,
        network_config=network_config,
        horizon_epochs=horizon,
        pace=pace,
        env_ids=env_ids,
    )


def deal_rows(num_rows: int, collective: Collective) -> range:
    """Return this rank's environments: neighbours, and on no rank more than one more than on another.

    Args:
        num_rows: Environments of all ranks together.
        collective: Says who this rank is.

    Raises:
        ConfigError: If there are fewer environments than ranks.
    """
    rank, size = collective.rank, collective.world_size
    if num_rows < size:
        raise ConfigError(
            f"envs.num_envs={num_rows}: {size} processes train together and each needs an environment; use "
            f"--envs {size} or more, or fewer processes"
        )
    return range(num_rows * rank // size, num_rows * (rank + 1) // size)


@final
class EnvBuilder:
    """Makes environments of the same family of hosts that share data and never-grown lives.

    Example:
        EnvBuilder(config).build((0, 1, 2, 3))
    """

    def __init__(self, config: ExperimentConfig, collective: Collective | None = None) -> None:
        """Load the data and measure the hosts.

        Args:
            config: The experiment.
            collective: Of all ranks, where there are others; all of them build theirs at the same time.

        Raises:
            EsperError: If data is missing or a setting does not fit.
        """
        envs = config.envs
        self._config = config
        seeds = tuple(range(envs.first_seed, envs.first_seed + envs.num_hosts))
        # Asked before data is loaded: hosts of one width have no narrower half.
        narrow = find_narrow(config, seeds) if envs.narrow_rounds > 0 else ()
        self._factory = HostFactory(config)
        self._factory.check_memory(envs.num_envs)
        self.sizes = self._factory.measure_sizes()
        self.horizon_epochs = self._factory.horizon_epochs
        starts = tuple(sorted({int(part * self.horizon_epochs) for part in envs.start_fractions}))
        self._plan = InstancePlan(
            seed=derive_seed(config.seed, "instances"),
            instances=seeds,
            start_epochs=starts,
            first_instances=narrow,
            num_first_episodes=envs.narrow_rounds,
        )
        self.fleet, self.fleet_choice = self._settle_fleet(seeds[: envs.num_envs], collective)
        self.never_runs = NeverRuns(
            self._factory.build,
            start_epochs=tuple(epoch for epoch in starts if epoch),
            max_runs=envs.num_hosts,
            blocks=[seeds[i : i + _LIVES_OF_A_BLOCK] for i in range(0, len(seeds), _LIVES_OF_A_BLOCK)],
            build_fleet=self._build_lives if "fused" in self.fleet.kind else None,
        )
        self._rubric = build_rubric(
            config.reward, discount=config.training.gamma, extra=build_own_terms(config.reward)
        )

    def _settle_fleet(
        self, seeds: Sequence[int], collective: Collective | None
    ) -> tuple[FleetConfig, FleetChoice | None]:
        """Return the settings with a measured kind where they ask for that; rank 0's on all ranks."""
        config = self._config.fleet
        if config.kind != "auto":
            return config, None
        choice = choose_fleet(config, self._factory, seeds)
        if collective is None:
            return replace(config, kind=choice.kind), choice
        return replace(config, kind=collective.gather_bytes(choice.kind.encode())[0].decode()), choice

    def _build_lives(self, instances: Sequence[int]) -> Fleet[object]:
        """Return the fleet of a block of lives: fused in this process, for workers serve the episodes."""
        return build_fleet(replace(self.fleet, kind="fused"), self._factory, instances, encode=tuple)

    def build(self, env_ids: Sequence[int]) -> GrowthRolloutEnv:
        """Return an environment of one row per number.

        Args:
            env_ids: [E] numbers of the rows; which hosts a row meets depends on the run seed and its number.
        """
        config, envs = self._config, self._config.envs
        encode = partial(
            build_inputs, num_slots=self.sizes.num_slots, num_blueprints=self.sizes.num_blueprints
        )
        # Places need hosts before the first reset says which; these are never trained.
        places = range(envs.first_seed, envs.first_seed + len(env_ids))
        return GrowthRolloutEnv(
            GrowthEnvParts(
                fleet=build_fleet(self.fleet, self._factory, places, encode),
                never_runs=self.never_runs,
                plan=self._plan,
                build_reward=lambda: RewardState(self._rubric),
                env_ids=tuple(env_ids),
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
