from __future__ import annotations

import json

import pytest

from builders import make_observation
from esper.leyline import TamiyoPolicy, UnknownNameError, refuse_action
from esper.tamiyo import POLICY_NAMES, HeuristicConfig, build_policy


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_name_builds_a_policy_that_decides_and_resumes(name: str) -> None:
    policy, other = (build_policy(name, seed=seed) for seed in (3, 4))
    assert isinstance(policy, TamiyoPolicy)
    policy.reset()
    observation = make_observation(epoch=12, plateau_epochs=3)
    decision = policy.decide(observation)
    assert decision.reason
    assert refuse_action(decision.action, observation) is None
    other.restore(json.loads(json.dumps(policy.state())))
    assert other.decide(observation) == policy.decide(observation)


def test_the_config_reaches_the_heuristic() -> None:
    policy = build_policy("heuristic", seed=0, config=HeuristicConfig(first_germination_epoch=20))
    assert "may be at 20" in policy.decide(make_observation(epoch=12)).reason


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'heuristic'"):
        build_policy("heurisic", seed=0)
