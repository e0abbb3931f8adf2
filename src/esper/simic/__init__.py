"""The gym: environments, rewards, and the learner that trains the gardener on them."""

from esper.simic.interfaces import ActorCritic, Bootstrap, EnvStep, RolloutEnv

__all__ = ["ActorCritic", "Bootstrap", "EnvStep", "RolloutEnv"]
