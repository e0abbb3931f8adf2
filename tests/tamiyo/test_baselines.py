from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from builders import make_budgets, make_observation, make_report, make_space
from esper.leyline import (
    Action,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    SlotReport,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo import ForcedCyclePolicy, NeverGrow
from strategies import observations

NEXT_STAGE = {
    SeedStage.GERMINATED: SeedStage.TRAINING,
    SeedStage.CULLED: SeedStage.EMBARGOED,
    SeedStage.EMBARGOED: SeedStage.RESETTING,
    SeedStage.RESETTING: SeedStage.DORMANT,
}


def apply_action(reports: Sequence[SlotReport], action: Action) -> list[SlotReport]:
    """A plant in miniature: gates pass after one epoch, a ramp lasts one, cooling down lasts three."""
    after = []
    for report in reports:
        stage, age = report.stage, report.seed_age_epochs + 1
        if action.slot == report.slot:
            if action.op is LifecycleOp.GERMINATE:
                stage, age = SeedStage.GERMINATED, 0
            elif action.op is LifecycleOp.CULL:
                stage = SeedStage.CULLED
            elif action.op is LifecycleOp.FOSSILIZE:
                stage = SeedStage.FOSSILIZED
            elif action.op is LifecycleOp.ADVANCE:
                stage = stage.successors[0]
        else:
            stage = NEXT_STAGE.get(stage, stage)
        after.append(
            make_report(
                report.slot,
                stage,
                seed_age_epochs=age,
                can_advance=stage in (SeedStage.TRAINING, SeedStage.BLENDING),
                can_fossilize=stage is SeedStage.PROBATIONARY,
            )
        )
    return after


def play(policy: ForcedCyclePolicy, slots: str, num_epochs: int = 24) -> list[tuple[str, str | None]]:
    """Run a policy against the miniature plant; return its operations other than WAIT."""
    reports = [make_report(slot) for slot in slots]
    played = []
    for epoch in range(num_epochs):
        observation = make_observation(*reports, epoch=epoch, budgets=make_budgets(epoch))
        action = policy.decide(observation).action
        assert refuse_action(action, observation) is None
        if action.op is not LifecycleOp.WAIT:
            played.append((action.op.value, action.slot))
        reports = apply_action(reports, action)
    return played


def test_never_grow_waits_with_a_reason() -> None:
    policy = NeverGrow()
    policy.reset()
    decision = policy.decide(make_observation(plateau_epochs=9))
    assert decision.action.op is LifecycleOp.WAIT
    assert decision.reason == "wait: this policy never grows"
    policy.restore(policy.state())
    with pytest.raises(ForeignCheckpointError, match="never"):
        policy.restore({"rotation": 1})


@pytest.mark.parametrize("kind", [NeverGrow, ForcedCyclePolicy])
def test_baselines_are_policies(kind: type[object]) -> None:
    assert isinstance(kind(), TamiyoPolicy)


def test_the_cycle_keeps_one_seed_and_culls_another() -> None:
    played = play(ForcedCyclePolicy(), "ab")
    assert [entry for entry in played if entry[1] == "a"] == [
        ("GERMINATE", "a"),
        ("ADVANCE", "a"),
        ("ADVANCE", "a"),
        ("FOSSILIZE", "a"),
    ]
    assert [entry for entry in played if entry[1] == "b"] == [("GERMINATE", "b"), ("CULL", "b")]


def test_the_cycle_of_one_slot_culls_first() -> None:
    assert [name for name, _ in play(ForcedCyclePolicy(), "a")] == [
        "GERMINATE",
        "CULL",
        "GERMINATE",
        "ADVANCE",
        "ADVANCE",
        "FOSSILIZE",
    ]


def test_a_complete_cycle_waits() -> None:
    policy = ForcedCyclePolicy()
    play(policy, "ab")
    decision = policy.decide(make_observation(make_report("a"), make_report("b")))
    assert decision.reason == "wait: the forced cycle is complete"


def test_the_cycle_takes_the_smallest_blueprint_and_the_shortest_ramp() -> None:
    action = ForcedCyclePolicy().decide(make_observation()).action
    assert (action.op, action.blueprint, action.tempo_epochs) == (LifecycleOp.GERMINATE, "norm", 1)


def test_the_cycle_opens_a_seed_that_rests_below_one() -> None:
    policy = ForcedCyclePolicy()
    policy.decide(make_observation())
    resting = make_report("block1", SeedStage.BLENDING, alpha_target=0.5)
    other = make_report("block2", SeedStage.TRAINING, seed_age_epochs=0)
    action = policy.decide(make_observation(resting, other)).action
    assert (action.op, action.slot, action.alpha_target) == (LifecycleOp.SET_ALPHA, "block1", 1.0)


def test_a_waiting_cycle_says_for_what() -> None:
    policy = ForcedCyclePolicy()
    policy.decide(make_observation())
    incubating = make_report("block1", SeedStage.TRAINING)
    fossil = make_report("block2", SeedStage.FOSSILIZED)
    decision = policy.decide(make_observation(incubating, fossil))
    assert decision.reason == "wait: G?: not ready in this test"


def test_a_host_that_cannot_take_a_seed_waits() -> None:
    none_fits = make_observation(make_report("a"), space=make_space(["a"], fits={"a": []}))
    assert ForcedCyclePolicy().decide(none_fits).reason == "wait: no blueprint fits 'a'"
    busy = make_observation(make_report("a", SeedStage.EMBARGOED), make_report("b", SeedStage.EMBARGOED))
    assert "stage is EMBARGOED" in ForcedCyclePolicy().decide(busy).reason
    no_slots = replace(make_observation(), slots=(), space=make_space([]))
    assert ForcedCyclePolicy().decide(no_slots).reason == "wait: the host has no slot"


def test_a_cycle_without_a_second_free_slot_says_so() -> None:
    policy = ForcedCyclePolicy()
    policy.restore({"kept_slot": "a", "has_kept": True, "has_culled": False})
    fossils = make_observation(make_report("a", SeedStage.FOSSILIZED), make_report("b", SeedStage.FOSSILIZED))
    assert policy.decide(fossils).reason == "wait: no other slot can take a seed that may be culled"


@settings(max_examples=80)
@given(observations())
def test_the_cycle_never_proposes_an_illegal_action(observation: Observation) -> None:
    policy = ForcedCyclePolicy()
    for _ in range(3):
        decision = policy.decide(observation)
        assert refuse_action(decision.action, observation) is None
        assert decision.reason


def test_a_restored_cycle_goes_on_as_the_first() -> None:
    first = ForcedCyclePolicy()
    play(first, "ab", 6)
    second = ForcedCyclePolicy()
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    with pytest.raises(ForeignCheckpointError):
        second.restore({"kept_slot": 3, "has_kept": False, "has_culled": False})
    with pytest.raises(ForeignCheckpointError):
        second.restore({"kept_slot": "a", "has_kept": 1, "has_culled": False})
    assert second.state() == first.state()
