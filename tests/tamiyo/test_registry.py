from __future__ import annotations

import json
from dataclasses import replace

import pytest

from builders import make_observation, make_report
from esper.leyline import TamiyoPolicy, UnknownNameError, refuse_action
from esper.tamiyo import POLICY_NAMES, GreedyConfig, HeuristicConfig, build_policy


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


def test_prices_reach_the_greedy_policy_and_rules_the_care_of_its_seeds() -> None:
    scored = replace(
        make_report("block1"), blueprint_gains={"norm": 0.5}, gradient_energy=1.0, scores_age_epochs=0
    )
    observation = make_observation(scored)
    rules = HeuristicConfig(tempo_epochs=7)
    policy = build_policy("greedy", seed=0, config=rules, greedy=GreedyConfig(min_share=0.5))
    assert policy.decide(observation).action.tempo_epochs == 7
    strict = build_policy("greedy", seed=0, greedy=GreedyConfig(min_share=0.6))
    assert "a score of at least 0.6" in strict.decide(observation).reason


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'heuristic'"):
        build_policy("heurisic", seed=0)
