"""Entry points of the toy worlds, as gymnasium's registry calls them: one environment, or a vector."""

from __future__ import annotations

from gymnasium.vector import AutoresetMode

from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import GymOptions
from esper.simic.gym.vector import GrowthVectorEnv
from esper.simic.toys.grow_toy import GrowToy
from esper.simic.toys.masked_recall import MaskedRecall
from esper.simic.toys.rollout import ToyRolloutEnv
from esper.simic.toys.task import StateT, ToyTask


def make_grow_toy(
    *,
    hidden: bool = False,
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
) -> GrowthEnv:
    """Return GrowToy: white-box growth with a known optimum.

    Args:
        hidden: The context is not observed, but the gains of live seeds are.
        obs_mode: "dict" or "flat".
        flatten_actions: One number over the nine joint actions instead of MultiDiscrete([4, 2, 2]).
        invalid_penalty: Subtracted from the reward of a step whose action was illegal.
    """
    return _make(GrowToy(is_hidden=hidden), _options(obs_mode, flatten_actions, invalid_penalty))


def make_grow_toy_vector(
    num_envs: int = 1,
    *,
    hidden: bool = False,
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    max_episode_steps: int | None = None,
) -> GrowthVectorEnv:
    """Return `num_envs` rows of GrowToy; see `make_grow_toy`.

    Args:
        num_envs: Rows.
        hidden: As for one row.
        obs_mode: As for one row.
        flatten_actions: As for one row.
        invalid_penalty: As for one row.
        autoreset_mode: When an ended row begins anew: "SameStep", "NextStep" or "Disabled".
        max_episode_steps: Steps after which an episode is abandoned: a true truncation; None = never.
    """
    options = _options(obs_mode, flatten_actions, invalid_penalty)
    return _make_vector(GrowToy(is_hidden=hidden), num_envs, options, autoreset_mode, max_episode_steps)


def make_masked_recall(
    *,
    corridor: int = 8,
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
) -> GrowthEnv:
    """Return MaskedRecall: a corridor that needs memory and a junction that needs the mask.

    Args:
        corridor: Decisions before the junction, >= 1.
        obs_mode: "dict" or "flat".
        flatten_actions: Discrete(8) instead of MultiDiscrete([8]).
        invalid_penalty: Subtracted from the reward of a step whose action was illegal.
    """
    return _make(MaskedRecall(corridor=corridor), _options(obs_mode, flatten_actions, invalid_penalty))


def make_masked_recall_vector(
    num_envs: int = 1,
    *,
    corridor: int = 8,
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    max_episode_steps: int | None = None,
) -> GrowthVectorEnv:
    """Return `num_envs` rows of MaskedRecall; see `make_masked_recall`.

    Args:
        num_envs: Rows.
        corridor: As for one row.
        obs_mode: As for one row.
        flatten_actions: As for one row.
        invalid_penalty: As for one row.
        autoreset_mode: When an ended row begins anew: "SameStep", "NextStep" or "Disabled".
        max_episode_steps: Steps after which an episode is abandoned: a true truncation; None = never.
    """
    options = _options(obs_mode, flatten_actions, invalid_penalty)
    return _make_vector(MaskedRecall(corridor=corridor), num_envs, options, autoreset_mode, max_episode_steps)


def _options(obs_mode: str, flatten_actions: bool, invalid_penalty: float) -> GymOptions:
    return GymOptions(obs_mode=obs_mode, flatten_actions=flatten_actions, invalid_penalty=invalid_penalty)


def _make(task: ToyTask[StateT], options: GymOptions) -> GrowthEnv:
    return GrowthEnv(lambda seed: ToyRolloutEnv(task, (seed,)), options=options, rules=task.rules())


def _make_vector(
    task: ToyTask[StateT],
    num_envs: int,
    options: GymOptions,
    autoreset_mode: AutoresetMode | str,
    max_episode_steps: int | None,
) -> GrowthVectorEnv:
    return GrowthVectorEnv(
        lambda seeds: ToyRolloutEnv(task, seeds),
        num_envs,
        options=options,
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        rules=task.rules(),
    )
