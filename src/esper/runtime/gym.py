"""Gymnasium ids: `import esper.runtime.gym`, then `gymnasium.make("esper/GrowToy-v0")` or `make_vec`.

```
esper/GrowToy-v0       white-box growth with a known optimum; microseconds a step
esper/MaskedRecall-v0  needs a memory and the mask
esper/GrowDigits-v0    a host on the digits inside the package; tens of milliseconds a step
esper/GrowFashion-v0   Fashion-MNIST; needs its files
esper/GrowCIFAR10-v0   CIFAR-10; needs its files
```
Gymnasium itself comes with the extra "rl". A version is raised whenever reward, observation or dynamics
change; `spaces_digest` of a test pins them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType

import gymnasium
from gymnasium.vector import AutoresetMode

from esper.data import TextConfig
from esper.leyline import JsonValue, derive_seed
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.training import EnvBuilder
from esper.simic import RolloutEnv
from esper.simic.gym.single import GrowthEnv
from esper.simic.gym.spaces import GymOptions
from esper.simic.gym.vector import GrowthVectorEnv

DISCOUNT = 0.995
"""Of an environment that is not told its learner's; part of what an id promises, whatever the presets say."""
_ROW_BOUND = 2**31
"""Numbers of rows are folded into this range: they name streams, and any int would do."""
HOST_IDS: Mapping[str, str] = MappingProxyType(
    {
        "esper/GrowDigits-v0": "digits",
        "esper/GrowFashion-v0": "fashion_mnist",
        "esper/GrowCIFAR10-v0": "cifar10",
    }
)
"""Id -> task preset."""
TOY_IDS: Mapping[str, str] = MappingProxyType(
    {
        "esper/GrowToy-v0": "esper.simic.gym.toys:make_grow_toy",
        "esper/MaskedRecall-v0": "esper.simic.gym.toys:make_masked_recall",
    }
)
"""Id -> entry point."""


def make_growth(
    *,
    task: str = "digits",
    epochs: int | None = None,
    reward: str = "gain",
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
    gamma: float = DISCOUNT,
) -> GrowthEnv:
    """Return a growing host as an environment: one step trains one epoch.

    Args:
        task: Task preset.
        epochs: Steps of an episode, >= 1; None = the task's own horizon.
        reward: Reward mode.
        obs_mode: "dict" or "flat".
        flatten_actions: One number over all joint actions instead of a column per head.
        invalid_penalty: Subtracted from the reward of a step whose action was illegal.
        gamma: Discount of whoever learns, in [0, 1]; shaped rewards need this very number, "gain" none.

    Raises:
        EsperError: If a name is unknown or data is missing.
    """
    config = _configure(task, epochs, reward, gamma)
    builder = EnvBuilder(config)

    def build(seed: int) -> RolloutEnv:
        return builder.build((_fold(seed),))

    options = GymOptions(obs_mode=obs_mode, flatten_actions=flatten_actions, invalid_penalty=invalid_penalty)
    return GrowthEnv(build, options=options, rules=describe_rules(config))


def make_growth_vector(  # noqa: PLR0913 - one keyword per setting, as gymnasium passes them
    num_envs: int = 1,
    *,
    task: str = "digits",
    epochs: int | None = None,
    reward: str = "gain",
    obs_mode: str = "dict",
    flatten_actions: bool = False,
    invalid_penalty: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    max_episode_steps: int | None = None,
    gamma: float = DISCOUNT,
) -> GrowthVectorEnv:
    """Return `num_envs` growing hosts that step together; see `make_growth`.

    Args:
        num_envs: Rows.
        task: As for one row.
        epochs: As for one row.
        reward: As for one row.
        obs_mode: As for one row.
        flatten_actions: As for one row.
        invalid_penalty: As for one row.
        autoreset_mode: When an ended row begins anew: "SameStep", "NextStep" or "Disabled".
        max_episode_steps: Steps after which an episode is abandoned: a true truncation; None = never.
        gamma: As for one row.

    Raises:
        EsperError: If a name is unknown or data is missing.
    """
    config = _configure(task, epochs, reward, gamma)
    builder = EnvBuilder(config)

    def build(seeds: tuple[int, ...]) -> RolloutEnv:
        return builder.build(tuple(map(_fold, seeds)))

    return GrowthVectorEnv(
        build,
        num_envs,
        options=GymOptions(
            obs_mode=obs_mode, flatten_actions=flatten_actions, invalid_penalty=invalid_penalty
        ),
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        rules=describe_rules(config),
    )


def describe_rules(config: ExperimentConfig) -> dict[str, JsonValue]:
    """Return what rewards and dynamics of a task's hosts depend on, as plain data."""
    reward = asdict(config.reward)
    if not config.reward.extra_terms:
        del reward["extra_terms"]  # where there are none, there is no rule to pin
    task = asdict(config.task)
    if config.task.text == TextConfig():
        del task["text"]  # nor where nothing is said about a text
    plain: dict[str, JsonValue] = json.loads(
        json.dumps({"reward": reward, "gamma": config.training.gamma, "task": task})
    )
    return plain


def register_all() -> None:
    """Register every id that is not registered yet; harmless when repeated."""
    for name, entry in TOY_IDS.items():
        _register(name, entry, {})
    for name, task in HOST_IDS.items():
        _register(name, "esper.runtime.gym:make_growth", {"task": task})


def _register(name: str, entry: str, settings: dict[str, object]) -> None:
    if name in gymnasium.registry:
        return
    gymnasium.register(
        id=name,
        entry_point=entry,
        vector_entry_point=f"{entry}_vector",
        kwargs=settings,
    )


def _configure(task: str, epochs: int | None, reward: str, gamma: float) -> ExperimentConfig:
    preset = build_preset(task)
    return replace(
        preset,
        num_threads=1,
        host=replace(preset.host, epochs=epochs),
        reward=replace(preset.reward, mode=reward),
        training=replace(preset.training, gamma=gamma),
    )


def _fold(seed: int) -> int:
    return derive_seed(seed, "gym-row") % _ROW_BOUND


register_all()
