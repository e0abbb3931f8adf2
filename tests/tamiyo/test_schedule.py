from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_budgets, make_observation, make_report, make_space
from esper.leyline import (
    Action,
    ConfigError,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SeedStage,
    TamiyoPolicy,
    refuse_action,
)
from esper.tamiyo import FixedSchedulePolicy, HeuristicConfig, ScheduledAction, build_even_schedule
from strategies import observations

GERMINATE = Action(op=LifecycleOp.GERMINATE, slot="a", blueprint="norm")
ADVANCE = Action(op=LifecycleOp.ADVANCE, slot="a")


def schedule(*entries: tuple[int, Action]) -> FixedSchedulePolicy:
    return FixedSchedulePolicy(ScheduledAction(epoch=epoch, action=action) for epoch, action in entries)


def empty(epoch: int) -> Observation:
    return make_observation(make_report("a"), make_report("b"), epoch=epoch)


def test_it_is_a_policy() -> None:
    assert isinstance(schedule(), TamiyoPolicy)


def test_an_entry_is_played_once_at_its_epoch() -> None:
    policy = schedule((3, GERMINATE))
    assert policy.decide(empty(2)).reason == "wait: the next entry is due at epoch 3"
    played = policy.decide(empty(3))
    assert played.action == GERMINATE
    assert played.reason == "scheduled from epoch 3 on"
    assert policy.decide(empty(4)).reason == "wait: all is done"


def test_an_entry_that_is_not_legal_yet_is_tried_again() -> None:
    policy = schedule((3, ADVANCE))
    waiting = policy.decide(make_observation(make_report("a", SeedStage.TRAINING), epoch=3))
    assert waiting.action.op is LifecycleOp.WAIT
    assert waiting.reason == "wait: ADVANCE of epoch 3: G?: not ready in this test"
    ready = make_observation(make_report("a", SeedStage.TRAINING, can_advance=True), epoch=7)
    assert policy.decide(ready).action == ADVANCE


def test_an_entry_ends_after_its_last_epoch() -> None:
    policy = FixedSchedulePolicy([ScheduledAction(epoch=3, action=GERMINATE, until_epoch=5)])
    assert policy.decide(empty(6)).reason == "wait: all is done"
    policy.reset()
    assert policy.decide(empty(5)).action == GERMINATE


def test_an_illegal_entry_does_not_hold_up_the_next() -> None:
    policy = schedule((3, ADVANCE), (3, GERMINATE))
    assert policy.decide(empty(3)).action == GERMINATE
    ready = make_observation(make_report("a", SeedStage.TRAINING, can_advance=True), epoch=4)
    assert policy.decide(ready).action == ADVANCE


def test_an_open_slot_and_blueprint_are_filled_in_by_rotation() -> None:
    birth = Action(op=LifecycleOp.GERMINATE, tempo_epochs=5)
    policy = FixedSchedulePolicy(
        [ScheduledAction(epoch=epoch, action=birth) for epoch in (1, 2, 3)],
        HeuristicConfig(blueprints_2d=("norm", "conv_light")),
    )
    free = make_observation(make_report("a", SeedStage.TRAINING), make_report("b"), epoch=9)
    actions = [policy.decide(free).action for _ in range(3)]
    assert [(action.slot, action.blueprint) for action in actions] == [
        ("b", "norm"),
        ("b", "conv_light"),
        ("b", "norm"),
    ]
    assert actions[0].tempo_epochs == 5


def test_a_rotation_that_is_not_affordable_waits() -> None:
    birth = Action(op=LifecycleOp.GERMINATE)
    policy = FixedSchedulePolicy(
        [ScheduledAction(epoch=0, action=birth)], HeuristicConfig(blueprints_2d=("conv_heavy",))
    )
    poor = make_observation(make_report("a"), budgets=make_budgets(max_added_params=700))
    assert policy.decide(poor).reason == "wait: GERMINATE of epoch 0: GERMINATE needs a blueprint"


def test_a_scheduled_wait_takes_its_turn() -> None:
    policy = schedule((0, Action()), (0, GERMINATE))
    assert policy.decide(empty(1)).action == Action()
    assert policy.decide(empty(1)).action == GERMINATE


def test_the_even_schedule_follows_the_calendar() -> None:
    config = HeuristicConfig(
        blueprints_2d=("norm",), blueprints_sequence=(), blueprints_flat=("mlp", "low_rank")
    )
    entries = build_even_schedule(config)
    assert [(entry.epoch, entry.action.op.value) for entry in entries] == [
        (5, "GERMINATE"),
        (8, "ADVANCE"),
        (11, "FOSSILIZE"),
        (10, "GERMINATE"),
        (13, "ADVANCE"),
        (16, "FOSSILIZE"),
    ]


def test_the_even_schedule_takes_a_seed_all_the_way() -> None:
    policy = FixedSchedulePolicy(build_even_schedule(HeuristicConfig()))
    stages = (
        (5, make_report("a")),
        (8, make_report("a", SeedStage.TRAINING, can_advance=True)),
        (11, make_report("a", SeedStage.PROBATIONARY, can_fossilize=True)),
    )
    space = make_space(["a"])
    ops = [policy.decide(make_observation(r, epoch=e, space=space)).action.op for e, r in stages]
    assert ops == [LifecycleOp.GERMINATE, LifecycleOp.ADVANCE, LifecycleOp.FOSSILIZE]


@pytest.mark.parametrize(("epoch", "until"), [(-1, None), (5, 4)])
def test_impossible_epochs_are_refused(epoch: int, until: int | None) -> None:
    with pytest.raises(ConfigError, match="schedule entry"):
        ScheduledAction(epoch=epoch, action=GERMINATE, until_epoch=until)


@settings(max_examples=60)
@given(observations())
def test_it_never_proposes_an_illegal_action(observation: Observation) -> None:
    policy = FixedSchedulePolicy(build_even_schedule(HeuristicConfig(first_germination_epoch=0)))
    for _ in range(4):
        assert refuse_action(policy.decide(observation).action, observation) is None


@settings(max_examples=20)
@given(st.lists(observations(), min_size=1, max_size=6), st.integers(0, 6))
def test_a_restored_schedule_replays_identically(history: list[Observation], cut: int) -> None:
    entries = build_even_schedule(HeuristicConfig(first_germination_epoch=0))
    first, second = FixedSchedulePolicy(entries), FixedSchedulePolicy(entries)
    for observation in history[:cut]:
        first.decide(observation)
    second.restore(json.loads(json.dumps(first.state())))
    for observation in history[cut:]:
        assert first.decide(observation) == second.decide(observation)


@pytest.mark.parametrize(
    "change", [{"num_entries": 2}, {"open": [1]}, {"open": ["x"]}, {"num_germinations": None}, {"more": 1}]
)
def test_the_memory_of_another_schedule_is_refused(change: dict[str, object]) -> None:
    policy = schedule((3, GERMINATE))
    with pytest.raises(ForeignCheckpointError):
        policy.restore({**policy.state(), **change})
    assert policy.decide(empty(3)).action == GERMINATE
