"""Every built-in term keeps the contract of terms, and each way to break it is found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from esper.leyline import ConfigError
from esper.simic.rewards.config import RewardConfig
from esper.simic.rewards.contract import check_reward_term, require_reward_term
from esper.simic.rewards.facts import StepFacts
from esper.simic.rewards.modes import build_terms
from esper.simic.rewards.rubric import RewardTermSpec, TermMemory
from simic.rewards.scripted_host import Gardener, cull_in_incubation, grow, hold, play

TERMS = {name: item.term for name, item in build_terms(RewardConfig(), discount=0.995).items()}


class Scripted:
    """A term made of a function."""

    def __init__(self, compute: Callable[[StepFacts, TermMemory], float], *, pays: bool = True) -> None:
        self.spec = RewardTermSpec(
            name="scripted", formula="?", unit="1", low=-1.0, high=1.0, why="test", pays_without_growth=pays
        )
        self._compute = compute

    def compute(self, facts: StepFacts, memory: TermMemory) -> float:
        return self._compute(facts, memory)


def remember(value: object) -> Scripted:
    def compute(facts: StepFacts, memory: TermMemory) -> float:
        memory["it"] = value  # type: ignore[assignment]
        return 0.0

    return Scripted(compute)


@pytest.mark.parametrize("name", TERMS)
def test_every_built_in_term_keeps_the_contract(name: str) -> None:
    assert check_reward_term(TERMS[name]) == ()
    assert require_reward_term(TERMS[name]) is TERMS[name]


def test_every_built_in_term_pays_in_some_episode() -> None:
    episodes = [
        play(grow("good", "better")),
        play(grow("bomb")),
        play(Gardener([("a", "good")], hold)),
        play(cull_in_incubation),
    ]
    for name, term in TERMS.items():
        values = []
        for episode in episodes:
            memory: TermMemory = {}
            values += [term.compute(facts, memory) for facts in episode]
        assert any(abs(value) > 1e-6 for value in values), name


@pytest.mark.parametrize("value", [1.5, -1.5, math.nan, math.inf])
def test_a_value_out_of_range_is_found(value: float) -> None:
    failures = check_reward_term(Scripted(lambda facts, memory: value))
    assert failures[0].startswith(f"a host that never grows: gives {value}, its range is [-1, 1]")


def test_a_metric_that_is_passed_on_unbounded_is_found_by_broken_measurements() -> None:
    failures = check_reward_term(Scripted(lambda facts, memory: facts.after.signals.metric))
    assert len(failures) == 1
    assert failures[0].startswith("broken measurements: gives nan")


def test_a_payment_for_nothing_is_found_unless_it_is_declared() -> None:
    assert check_reward_term(Scripted(lambda facts, memory: 0.5)) == ()
    failures = check_reward_term(Scripted(lambda facts, memory: 0.5, pays=False))
    assert failures == (
        "a host that never grows: gives 0.5 although nothing was grown; if it means to, say so in its spec",
    )


def test_a_hidden_state_is_found() -> None:
    calls = itertools.count()
    failures = check_reward_term(Scripted(lambda facts, memory: 0.001 * next(calls)))
    assert "gives 0 and then 0.001 for the same facts and memory" in failures[0]


def test_a_memory_that_differs_is_found() -> None:
    calls = itertools.count()

    def compute(facts: StepFacts, memory: TermMemory) -> float:
        memory["calls"] = next(calls)
        return 0.0

    assert "leaves two different memories" in check_reward_term(Scripted(compute))[0]


@pytest.mark.parametrize("value", [{1, 2}, math.nan, object()], ids=["set", "nan", "object"])
def test_a_memory_that_cannot_be_saved_is_found(value: object) -> None:
    assert "its memory is no plain JSON data" in check_reward_term(remember(value))[0]


def test_a_term_that_breaks_the_contract_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="reward term 'scripted' breaks its contract: a host that never"):
        require_reward_term(Scripted(lambda facts, memory: 2.0))
