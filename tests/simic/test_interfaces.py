"""The two seams, and the records that cross them: whoever implements a protocol has all of it."""

from __future__ import annotations

import pytest
import torch

from esper.simic.growth_env import GrowthRolloutEnv
from esper.simic.interfaces import ActorCritic, EnvStep, RolloutEnv
from esper.simic.toys.rollout import ToyRolloutEnv
from esper.tamiyo import ActionLayout, NetworkConfig, build_network


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("implementation", [GrowthRolloutEnv, ToyRolloutEnv])
def test_environments_have_every_method_of_the_protocol(implementation: type) -> None:
    assert members(RolloutEnv) <= members(implementation)


def test_the_network_has_every_method_of_the_protocol() -> None:
    config = NetworkConfig(kind="flat", flat_features=3)
    layout = ActionLayout(op_names=("LEFT", "RIGHT"), uses={"op": (True, True)})
    network = build_network(config, layout, seed=0)
    assert all(hasattr(network, name) for name in members(ActorCritic))


def test_a_row_has_ended_when_it_was_terminated_or_truncated() -> None:
    step = EnvStep(
        inputs={},
        reward=torch.zeros(3),
        terminated=torch.tensor([True, False, False]),
        truncated=torch.tensor([False, True, False]),
        is_valid=torch.ones(3, dtype=torch.bool),
    )
    assert step.ended.tolist() == [True, True, False]
