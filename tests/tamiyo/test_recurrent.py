from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from builders import make_observation, make_report, make_space
from esper.leyline import (
    ConfigError,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo.network import NetworkConfig
from esper.tamiyo.recurrent import NonFinitePolicyError, RecurrentPolicy
from tamiyo.network.network_cases import FLAT, SMALL, make_network

MIXED = make_observation(
    make_report("a"),
    make_report("b", SeedStage.PROBATIONARY, can_fossilize=True),
    make_report("c", SeedStage.BLENDING),
)


def make_policy(
    *, seed: int = 0, is_greedy: bool = False, config: NetworkConfig = SMALL, spread: float = 0.3
) -> RecurrentPolicy:
    return RecurrentPolicy(make_network(config, spread=spread), seed=seed, is_greedy=is_greedy)


def epochs(count: int, start: int = 0) -> list[Observation]:
    """The same host, interval by interval."""
    return [replace(MIXED, signals=replace(MIXED.signals, epoch=start + epoch)) for epoch in range(count)]


def decide_all(policy: RecurrentPolicy, hosts: list[Observation]) -> list[Decision]:
    return [policy.decide(host) for host in hosts]


def test_it_is_a_policy() -> None:
    assert isinstance(make_policy(), TamiyoPolicy)


@pytest.mark.parametrize("config", [SMALL, FLAT, replace(SMALL, is_recurrent=False)])
def test_what_it_asks_for_is_legal_and_varied(config: NetworkConfig) -> None:
    decisions = decide_all(make_policy(config=config, spread=0.1), epochs(40))
    assert all(refuse_action(decision.action, MIXED) is None for decision in decisions)
    assert len({decision.action.op for decision in decisions}) >= 4


def test_equal_seeds_decide_alike_and_others_not() -> None:
    first, second, other = (
        [decision.action for decision in decide_all(make_policy(seed=seed, spread=0.1), epochs(12))]
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_a_greedy_policy_does_not_depend_on_its_seed_nor_on_the_global_stream() -> None:
    before = torch.get_rng_state()
    first, second = (decide_all(make_policy(seed=seed, is_greedy=True), epochs(5)) for seed in (1, 2))
    assert first == second
    decide_all(make_policy(), epochs(3))
    assert torch.equal(before, torch.get_rng_state())


def test_it_remembers_what_it_saw_until_reset() -> None:
    """Two histories, one present: the values differ; after a reset they do not."""
    calm = epochs(3)
    wild = [replace(host, signals=replace(host.signals, train_loss=9.0)) for host in calm]
    values = []
    for history in (calm, wild):
        policy = make_policy(is_greedy=True)
        decide_all(policy, history)
        values.append([policy.decide(MIXED).evidence])
        policy.reset()
        values[-1].append(policy.decide(MIXED).evidence)
    assert values[0][0] != values[1][0]
    assert values[0][1] == values[1][1]


def test_each_host_has_a_stream_of_its_own() -> None:
    policy = make_policy(spread=0.0)
    first = [decision.action for decision in decide_all(policy, epochs(20))]
    policy.reset()
    second = [decision.action for decision in decide_all(policy, epochs(20))]
    assert first != second


@pytest.mark.parametrize("is_greedy", [False, True])
def test_five_decisions_after_a_restore_are_those_of_the_uninterrupted_run(is_greedy: bool) -> None:
    policy = make_policy(seed=4, is_greedy=is_greedy)
    decide_all(policy, epochs(4))
    policy.reset()
    decide_all(policy, epochs(6))
    saved = json.loads(json.dumps(policy.state(), allow_nan=False))
    expected = decide_all(policy, epochs(5, start=6))
    resumed = make_policy(seed=99, is_greedy=is_greedy)
    resumed.restore(saved)
    assert decide_all(resumed, epochs(5, start=6)) == expected
    assert resumed.state() == policy.state()


def test_a_decision_says_what_with_which_probability_and_value() -> None:
    policy = make_policy(seed=1)
    for host in epochs(30):
        decision = policy.decide(host)
        action, evidence = decision.action, decision.evidence
        assert evidence is not None
        assert evidence.value is not None
        op = host.space.op_ids.index(action.op)
        assert f"probability {evidence.probabilities['op'][op]:.3f}" in decision.reason
        assert f"value {evidence.value:.4f}" in decision.reason
        assert decision.reason.startswith(action.op.value)
        assert 0.0 < decision.confidence <= 1.0
        for head, probabilities in evidence.probabilities.items():
            assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
            mask = evidence.masks.get(head, (True,) * len(probabilities))
            assert len(mask) == len(probabilities)
            assert all(p == 0.0 for p, is_legal in zip(probabilities, mask, strict=True) if not is_legal)
        if action.op is LifecycleOp.WAIT:
            assert set(evidence.probabilities) == {"op"}
        if action.op is LifecycleOp.GERMINATE:
            assert len(evidence.masks["blueprint"]) == len(host.space.blueprint_ids)
            assert str(action.slot) in decision.reason


def test_a_host_without_slots_waits() -> None:
    bare = replace(MIXED, slots=(), space=make_space([]))
    decision = make_policy().decide(bare)
    assert decision.action.op is LifecycleOp.WAIT
    assert decision.confidence == 1.0


def test_one_policy_decides_for_hosts_of_any_size() -> None:
    policy = make_policy(is_greedy=True)
    for names in (("a",), ("a", "b"), tuple("abcdefgh")):
        host = make_observation(*(make_report(name) for name in names))
        assert refuse_action(policy.decide(host).action, host) is None


def test_a_host_with_other_arguments_is_refused_and_nothing_is_remembered() -> None:
    policy = make_policy()
    before = policy.state()
    other = replace(MIXED, space=replace(MIXED.space, tempo_ids=(1, 2)))
    with pytest.raises(ConfigError, match=r"'tempo': \('1', '2'\).*was built for"):
        policy.decide(other)
    assert policy.state() == before


def test_a_host_too_large_for_a_flat_network_is_refused() -> None:
    host = make_observation(*(make_report(name) for name in "abcde"))
    with pytest.raises(ConfigError, match=r"5 slots"):
        make_policy(config=FLAT).decide(host)


def test_a_network_that_answers_nan_is_an_error_with_numbers_and_nothing_is_remembered() -> None:
    network = make_network()
    policy = RecurrentPolicy(network, seed=0)
    before = policy.state()
    with torch.no_grad():
        network.value_layer.weight.fill_(math.nan)
    with pytest.raises(NonFinitePolicyError, match=r"decision 0 of host 0: .*value nan"):
        policy.decide(MIXED)
    assert policy.state() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra are missing or unknown"),
        ({"seed": "x"}, "whole number"),
        ({"num_decisions": None}, "whole number"),
        ({"hidden": 3}, "expected a list"),
        ({"hidden": [[0.0] * 10]}, "1 layers of .* the network has 4 of 10"),
        ({"cell": [[0.0] * 9] * 4}, "the network has 4 of 10"),
        ({"cell": [[0.0] * 9 + ["x"]] * 4}, "finite numbers, got 'x'"),
        ({"cell": [[0.0] * 9 + [math.nan]] * 4}, "finite numbers, got nan"),
        ({"cell": [1, 2]}, "expected a list"),
    ],
)
def test_a_malformed_memory_is_refused_and_changes_nothing(change: dict[str, object], message: str) -> None:
    policy = make_policy()
    policy.decide(MIXED)
    before = policy.state()
    with pytest.raises(ForeignCheckpointError, match=message):
        policy.restore({**before, **change})
    assert policy.state() == before


def test_a_policy_whose_critic_knew_more_decides_without_a_value() -> None:
    knowing = make_policy(config=replace(SMALL, is_critic_privileged=True))
    decision = knowing.decide(MIXED)
    assert decision.evidence is not None
    assert decision.evidence.value is None
    assert "value" not in decision.reason
