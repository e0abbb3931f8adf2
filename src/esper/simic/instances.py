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

    def __post_init__(self) -> None:
        """Check the tables.

        Raises:
            ConfigError: If there is no instance, one occurs twice, or a start is negative.
        """
        if not self.instances or len(set(self.instances)) != len(self.instances):
            raise ConfigError(f"instances {self.instances[:8]}: need at least one, each once")
        if not self.start_epochs or min(self.start_epochs) < 0:
            raise ConfigError(f"start_epochs={self.start_epochs}: need at least one, each >= 0")

    def start(self, env_id: int, episode: int) -> EpisodeStart:
        """Return where an episode begins.

        An environment walks through a shuffled list of all instances before it meets one again; lists differ
        between environments and between passes.

        Args:
            env_id: Number of the environment over all processes, >= 0.
            episode: Number of the environment's episode, >= 0.
        """
        lap, place = divmod(episode, len(self.instances))
        order = sorted(
            self.instances, key=lambda instance: derive_seed(self.seed, "instances", env_id, lap, instance)
        )
        draw = derive_seed(self.seed, "start-epoch", env_id, episode)
        return EpisodeStart(order[place], self.start_epochs[draw % len(self.start_epochs)])
