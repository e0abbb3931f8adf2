"""Every built-in policy keeps the contract of policies, and each way to break it is found and named."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from esper.leyline import (
    WAIT,
    Action,
    ConfigError,
    Decision,
    LifecycleOp,
    Observation,
    legal_blueprints,
    legal_ops,
)
from esper.tamiyo import (
    POLICY_NAMES,
    NetworkConfig,
    RecurrentPolicy,
    build_growth_layout,
    build_network,
    build_policy,
    check_policy,
    require_policy,
)
from esper.tamiyo.policy_contract import judge_decision
from esper.tamiyo.practice_host import PRACTICE_HOSTS, PracticeHost

SMALL = NetworkConfig(hidden_size=8, token_size=8, family_size=4, attention_heads=2, core_size=8)


def germinate(observation: Observation) -> Decision | None:
    """The first germination that is legal."""
    for report in observation.slots:
        if LifecycleOp.GERMINATE in legal_ops(report, observation):
            name = legal_blueprints(report, observation)[0]
            action = Action(op=LifecycleOp.GERMINATE, slot=report.slot, blueprint=name)
            return Decision(action=action, reason="a slot is free")
    return None


class Own:
    """Keeps the contract: it germinates at its third decision, if it may; others replace its parts."""

    def __init__(self) -> None:
        self.num_decisions = 0

    def decide(self, observation: Observation) -> Decision:
        self.num_decisions += 1
        return (germinate(observation) if self.num_decisions == 3 else None) or Decision(reason="waits")

    def reset(self) -> None:
        self.num_decisions = 0

    def state(self) -> dict[str, object]:
        return {"num_decisions": self.num_decisions}

    def restore(self, state: dict[str, object]) -> None:
        number = state["num_decisions"]
        assert isinstance(number, int)
        self.num_decisions = number


class Answers(Own):
    """Gives the same answer to everything."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def decide(self, observation: Observation) -> Decision:
        return self.answer  # type: ignore[return-value]


class Remembers(Own):
    """Has something of its own in its state."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def state(self) -> dict[str, object]:
        return {**super().state(), "value": self.value}


class Forgetful(Own):
    def restore(self, state: dict[str, object]) -> None:
        del state

    def state(self) -> dict[str, object]:
        return {}


class HalfRestored(Own):
    def restore(self, state: dict[str, object]) -> None:
        super().restore(state)
        self.num_decisions += 1


class Unseeded(Own):
    stream = random.Random(3)
    """Of the process, as the module's own; seeded, because by chance ten coins fall alike at times."""

    def decide(self, observation: Observation) -> Decision:
        return (germinate(observation) if self.stream.random() < 0.5 else None) or Decision()


class CountsCalls(Own):
    calls = itertools.count()

    def decide(self, observation: Observation) -> Decision:
        self.num_decisions = next(self.calls)
        return Decision()


class ResetsAnew(Own):
    resets = itertools.count()

    def reset(self) -> None:
        self.num_decisions = next(self.resets) + 1000

    def decide(self, observation: Observation) -> Decision:
        self.num_decisions += 1
        return Decision()


class Vandal(Own):
    def decide(self, observation: Observation) -> Decision:
        observation.space.descriptors["block1"].clear()  # type: ignore[attr-defined]
        return Decision()


class ListState(Own):
    def state(self) -> dict[str, object]:
        return [1]  # type: ignore[return-value]


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_built_in_rule_keeps_the_contract(name: str) -> None:
    policy = build_policy(name, seed=3)
    assert check_policy(policy) == ()
    assert require_policy(policy) is policy


@pytest.mark.slow
def test_a_network_policy_keeps_the_contract_drawing_and_greedy() -> None:
    layout = build_growth_layout(PracticeHost(PRACTICE_HOSTS[0]).observe().space)
    network = build_network(SMALL, layout, seed=0).eval()
    for is_greedy in (False, True):
        assert check_policy(RecurrentPolicy(network, seed=0, is_greedy=is_greedy)) == ()


def test_a_policy_of_ten_lines_keeps_the_contract() -> None:
    assert check_policy(Own()) == ()


@pytest.mark.parametrize(
    ("build", "clause", "words"),
    [
        (object, "protocol", "it has no method decide, reset, state, restore"),
        (lambda: Answers(None), "answer", "decide returns a NoneType, expected a Decision"),
        (lambda: Answers(Decision(action="WAIT")), "answer", "action of the Decision is 'WAIT', expected A"),  # type: ignore[arg-type]
        (lambda: Answers(Decision(action=Action(op="WAIT"))), "answer", "op of the Action is 'WAIT'"),  # type: ignore[arg-type]
        (lambda: Answers(Decision(action=Action(slot=1))), "answer", "slot of the Action is 1"),  # type: ignore[arg-type]
        (lambda: Answers(Decision(reason=None)), "answer", "reason of the Decision is None, expected str"),  # type: ignore[arg-type]
        (lambda: Answers(Decision(confidence=math.nan)), "answer", "confidence is nan"),
        (lambda: Answers(Decision(confidence=1.5)), "answer", "confidence is 1.5, must be in [0, 1]"),
        (
            lambda: Answers(Decision(action=Action(op=LifecycleOp.CULL, slot="block1"))),
            "legal",
            "CULL on 'block1': stage is DORMANT",
        ),
        (
            lambda: Answers(Decision(action=Action(op=LifecycleOp.GERMINATE, slot="blok1"))),
            "legal",
            "unknown slot 'blok1': did you mean 'block1'",
        ),
        (Vandal, "pure", "decide changes the observation, after interval 0"),
        (ListState, "memory", "state gives a list, expected a dict"),
        (lambda: Remembers({1, 2}), "memory", "state()['value'] is a set"),
        (lambda: Remembers([0.0, math.inf]), "memory", "state()['value'][1] is inf; only finite"),
        (
            lambda: Remembers({"a": {3: 4}}),
            "memory",
            "state()['value']['a'] has the key 3; keys must be text",
        ),
        (HalfRestored, "memory", "restore was given"),
        (
            Forgetful,
            "same",
            "after interval 2, put back by restore, it decides WAIT where it had decided GERM",
        ),
        (Unseeded, "same", "put back by restore, it decides"),
        (CountsCalls, "same", "deciding leaves another memory than it had left"),
        (ResetsAnew, "same", "two resets from one memory leave two memories"),
    ],
)
def test_each_clause_that_is_broken_is_named(build: Callable[[], object], clause: str, words: str) -> None:
    failures = check_policy(build())
    assert failures
    host, _, text = failures[0].rpartition(f"{clause}: ")
    assert host == ("" if clause == "protocol" else f"{PRACTICE_HOSTS[0].name}: ")
    assert words in text
    with pytest.raises(ConfigError, match=rf"^policy \w+ breaks its contract: .*{clause}: "):
        require_policy(build())


def test_the_same_failure_on_every_host_is_told_once() -> None:
    assert len(check_policy(Answers(None))) == 1


def test_what_a_policy_raises_is_not_caught() -> None:
    class Crashes(Own):
        def decide(self, observation: Observation) -> Decision:
            raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        check_policy(Crashes())


def test_tuples_numbers_and_texts_may_be_remembered() -> None:
    assert check_policy(Remembers([1, 2.5, "a", None, True, {"b": []}])) == ()


def test_an_answer_is_judged_by_the_observation_that_it_was_given() -> None:
    observation = PracticeHost(PRACTICE_HOSTS[0]).observe()
    assert judge_decision(Decision(action=WAIT), observation) is None
    assert judge_decision(germinate(observation), observation) is None
