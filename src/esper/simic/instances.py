"""Which host an episode gets: a pure function of the training seed, the environment and the episode's number.

Never of a rank or a place in a fleet, so that any split of the environments over processes meets the same
hosts. Instances are numbers; what a number stands for (weights, data order, width, slots) is the business of
whoever builds the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

from esper.leyline import ConfigError, derive_seed


class EpisodeStart(NamedTuple):
    """Where one episode begins."""

    instance: int
    epoch: int
    """Interval at which it begins; 0 = a fresh host."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlan:
    """A set of instances, and the order in which environments meet them.

    Example:
        InstancePlan(seed=7, instances=(0, 1, 2)).start(env_id=0, episode=4)
    """

    seed: int
    """Of the order."""
    instances: tuple[int, ...]
    """Ids, each once; hosts for evaluation must not be among them."""
    start_epochs: tuple[int, ...] = (0,)
    """Intervals at which episodes begin, drawn evenly; later ones skip what a policy cannot influence."""
    first_instances: tuple[int, ...] = ()
    """Those of the instances that the first episodes are given to, each once; easy ones before all."""
    num_first_episodes: int = 0
    """Episodes of each environment that are given to them, >= 0; 0 goes with an empty list."""

    def __post_init__(self) -> None:
        """Check the tables.

        Raises:
            ConfigError: If there is no instance, one occurs twice, a start is negative, or first instances
                and the number of their episodes do not fit together.
        """
        if not self.instances or len(set(self.instances)) != len(self.instances):
            raise ConfigError(f"instances {self.instances[:8]}: need at least one, each once")
        if not self.start_epochs or min(self.start_epochs) < 0:
            raise ConfigError(f"start_epochs={self.start_epochs}: need at least one, each >= 0")
        first = set(self.first_instances)
        if len(first) != len(self.first_instances) or not first <= set(self.instances):
            raise ConfigError(f"first_instances {self.first_instances[:8]}: must be instances, each once")
        if self.num_first_episodes < 0 or bool(first) != (self.num_first_episodes > 0):
            raise ConfigError(
                f"num_first_episodes={self.num_first_episodes} with {len(first)} first_instances: need both "
                "(>= 1) or neither (0)"
            )

    def start(self, env_id: int, episode: int) -> EpisodeStart:
        """Return where an episode begins.

        An environment walks through a shuffled list of all instances before it meets one again; lists differ
        between environments and between passes. Its first episodes walk through the first instances alone;
        the episode after them begins a pass over all, wherever that walk stood.

        Args:
            env_id: Number of the environment over all processes, >= 0.
            episode: Number of the environment's episode, >= 0.
        """
        draw = derive_seed(self.seed, "start-epoch", env_id, episode)
        start_epoch = self.start_epochs[draw % len(self.start_epochs)]
        if episode < self.num_first_episodes:
            instance = self._pick("first-instances", self.first_instances, env_id, episode)
        else:
            instance = self._pick("instances", self.instances, env_id, episode - self.num_first_episodes)
        return EpisodeStart(instance, start_epoch)

    def _pick(self, stream: str, instances: tuple[int, ...], env_id: int, episode: int) -> int:
        """Return the instance of an episode that counts from the beginning of its list."""
        lap, place = divmod(episode, len(instances))
        order = sorted(instances, key=lambda instance: derive_seed(self.seed, stream, env_id, lap, instance))
        return order[place]
