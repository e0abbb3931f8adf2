"""The way to Stable-Baselines3, which takes no vector of gymnasium; it is imported only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline import ConfigError
from esper.simic.gym.vector import GrowthVectorEnv

if TYPE_CHECKING:
    from esper.simic.gym.sb3_vec_env import Sb3VecEnv


def as_sb3_vec_env(vector_env: GrowthVectorEnv) -> Sb3VecEnv:
    """Return a Stable-Baselines3 `VecEnv` over a vector whose autoreset is SAME_STEP.

    Masks are found where sb3-contrib looks for them: `env_method("action_masks")`.

    Raises:
        ConfigError: If the autoreset mode is another, or stable-baselines3 is not installed.

    Example:
        MaskablePPO("MultiInputPolicy", as_sb3_vec_env(make_grow_toy_vector(8)))
    """
    try:
        from esper.simic.gym.sb3_vec_env import Sb3VecEnv  # noqa: PLC0415 (heavy, optional third party)
    except ModuleNotFoundError as error:
        raise ConfigError("as_sb3_vec_env needs stable-baselines3: pip install stable-baselines3") from error
    return Sb3VecEnv(vector_env)
