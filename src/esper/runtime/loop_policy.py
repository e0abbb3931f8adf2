"""Who decides in a loop of one's own: a policy by its name on a command line, or one that was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline import ConfigError, TamiyoPolicy, derive_seed
from esper.runtime.experiment import TRAINABLE_NAMES, ExperimentConfig
from esper.runtime.own_blueprints import add_to_rotation
from esper.runtime.policies import SCORED_POLICY, check_reference, find_policy
from esper.tamiyo import HeuristicConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina import BlueprintSpec


def check_loop_policy(policy: object) -> None:
    """Refuse what could not decide in a loop of one's own; reads no file, imports nothing.

    Raises:
        UnknownNameError: If it names nothing.
        ConfigError: If it is no policy, or one that needs more than such a loop tells.
    """
    if isinstance(policy, type):
        raise ConfigError(
            f"policy is the class {policy.__name__}: pass an object of it, {policy.__name__}(...)"
        )
    if not isinstance(policy, str):
        if not isinstance(policy, TamiyoPolicy):
            raise ConfigError(
                f"policy is a {type(policy).__name__}: expected a name such as 'heuristic', the folder of a "
                "trained one, or an object with decide, reset, state and restore"
            )
        return
    if policy == SCORED_POLICY:
        raise ConfigError(
            f"policy={policy!r} plants by scores, which need the loss: in a loop of your own use 'heuristic'"
        )
    if policy in TRAINABLE_NAMES:
        raise ConfigError(
            f"policy={policy!r} trains a policy on many hosts (esper train {policy}): here pass the folder "
            "of a trained one, 'pretrained' or 'heuristic'"
        )
    check_reference(policy, may_train=False)


def resolve_policy(
    policy: TamiyoPolicy | str, seed: int, offered: Sequence[BlueprintSpec] = ()
) -> TamiyoPolicy:
    """Return a policy by what a command line calls it; one that is a policy already comes back.

    Args:
        policy: A policy or a name.
        seed: Of its draws.
        offered: Blueprints that were offered by their own names: a heuristic plants them, too.

    Raises:
        EsperError: If the name, folder or class is none.
    """
    check_loop_policy(policy)
    if not isinstance(policy, str):
        return policy
    config = ExperimentConfig(heuristic=add_to_rotation(HeuristicConfig(), offered))
    return find_policy(policy, config, seed=derive_seed(seed, "policy", 0), is_greedy=True).policy
