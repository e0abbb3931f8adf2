"""Practice hosts obey the tables of legality, show every stage, and answer equal actions alike."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from esper.leyline import TRANSITIONS, WAIT, Action, LifecycleOp, SeedStage, refuse_action
from esper.tamiyo import build_inputs, build_policy
from esper.tamiyo.practice_host import PRACTICE_HOSTS, PracticeHost, PracticeHostKind

KINDS = {kind.name: kind for kind in PRACTICE_HOSTS}


def _live(kind: PracticeHostKind, seed: int) -> list[dict[str, SeedStage]]:
    """The stages of every slot at each decision point of one life under random actions."""
    host, policy, seen = PracticeHost(kind), build_policy("random", seed=seed), []
    policy.reset()
    while not host.is_finished:
        observation = host.observe()
        assert observation == host.observe()
        seen.append({report.slot: report.stage for report in observation.slots})
        host.apply(policy.decide(observation).action)
    return seen


def _reachable(stage: SeedStage) -> set[SeedStage]:
    """What a slot may be one interval later: up to two moves, the one asked for and one that follows."""
    once = {stage, *TRANSITIONS[stage]}
    return once | {after for middle in once for after in TRANSITIONS[middle]}


@pytest.mark.parametrize("name", KINDS)
def test_slots_move_by_the_table_and_equal_actions_give_equal_lives(name: str) -> None:
    for seed in range(4):
        life = _live(KINDS[name], seed)
        assert life == _live(KINDS[name], seed)
        assert len(life) == 24
        for before, after in itertools.pairwise(life):
            assert all(after[slot] in _reachable(stage) for slot, stage in before.items())


def test_together_they_show_every_stage() -> None:
    seen: Counter[SeedStage] = Counter()
    for kind in PRACTICE_HOSTS:
        for seed in range(5):
            for stages in _live(kind, seed):
                seen.update(stages.values())
    assert set(seen) | {SeedStage.FOSSILIZED} == set(SeedStage)
    heuristic, host = build_policy("heuristic", seed=0), PracticeHost(PRACTICE_HOSTS[0])
    while not host.is_finished:
        host.apply(heuristic.decide(host.observe()).action)
    assert {report.stage for report in host.observe().slots} == {SeedStage.FOSSILIZED}


def test_what_is_seen_can_be_encoded() -> None:
    for kind in PRACTICE_HOSTS:
        host = PracticeHost(kind)
        host.apply(WAIT)
        assert all(tensor.isfinite().all() for tensor in build_inputs([host.observe()]).values())


def test_an_illegal_action_counts_as_wait() -> None:
    acted, waited = PracticeHost(PRACTICE_HOSTS[0]), PracticeHost(PRACTICE_HOSTS[0])
    acted.apply(Action(op=LifecycleOp.FOSSILIZE, slot="block1"))
    waited.apply(WAIT)
    assert acted.observe() == waited.observe()
    assert acted.epoch == 1


def test_nothing_may_germinate_without_room_and_a_harmful_seed_is_never_kept() -> None:
    full = PracticeHost(KINDS["a host without room to grow"])
    germinate = Action(op=LifecycleOp.GERMINATE, slot="block1", blueprint="norm", tempo_epochs=1)
    assert "are left" in str(refuse_action(germinate, full.observe()))
    harmed = PracticeHost(KINDS["a host that seeds harm"])
    harmed.apply(germinate)
    advance = Action(op=LifecycleOp.ADVANCE, slot="block1")
    while not harmed.is_finished:
        harmed.apply(advance)
    report = harmed.observe().slot("block1")
    assert report.stage is SeedStage.PROBATIONARY
    assert report.contribution is not None
    assert report.contribution.mean == -0.02
    assert report.fossilize_refusal == "contribution -0.020, needs more than 0"
