from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_budgets, make_observation, make_report, make_space
from esper.leyline import Action, LifecycleOp, Observation, SeedStage, refuse_action
from esper.tamiyo import choosable_ops, compute_masks, growable_blueprints
from esper.tamiyo.masks import compute_masks_many
from strategies import observations, wild_observations

OPS = tuple(LifecycleOp)
GERMINATE = OPS.index(LifecycleOp.GERMINATE)


def assert_masks_agree(observation: Observation) -> None:
    """Compare the masks with `refuse_action` over every joint action; "noop" is masked although legal."""
    masks, space = compute_masks(observation), observation.space
    for op, (place, slot) in itertools.product(OPS, enumerate(space.slot_ids)):
        if op is LifecycleOp.GERMINATE:
            for index, blueprint in enumerate(space.blueprint_ids):
                action = Action(op=op, slot=slot, blueprint=blueprint)
                is_legal = refuse_action(action, observation) is None and blueprint != "noop"
                assert bool(masks.blueprints[place, index]) == is_legal
            assert masks.slots[GERMINATE, place] == masks.blueprints[place].any()
        else:
            is_legal = refuse_action(Action(op=op, slot=slot), observation) is None
            assert bool(masks.slots[OPS.index(op), place]) == is_legal


@settings(max_examples=70)
@given(observations())
def test_masks_agree_with_refusals_for_every_joint_action(observation: Observation) -> None:
    assert_masks_agree(observation)


@pytest.mark.slow
@settings(max_examples=500)
@given(observations())
def test_masks_agree_with_refusals_in_many_cases(observation: Observation) -> None:
    assert_masks_agree(observation)


@settings(max_examples=60)
@given(wild_observations())
def test_every_row_that_can_be_reached_has_a_choice(observation: Observation) -> None:
    masks = compute_masks(observation)
    assert masks.ops[OPS.index(LifecycleOp.WAIT)]
    for op in range(1, len(OPS)):
        assert masks.ops[op] == masks.slots[op].any()
    for place in range(len(observation.slots)):
        if masks.slots[GERMINATE, place]:
            assert masks.blueprints[place].any()


def test_wait_is_legal_without_any_slot() -> None:
    observation = replace(make_observation(), slots=(), space=make_space([]))
    masks = compute_masks(observation)
    assert masks.ops.tolist() == [True, False, False, False, False, False]
    assert masks.slots.shape == (6, 0)
    assert masks.blueprints.shape == (0, 5)


def test_noop_is_never_offered_and_alone_makes_no_germination() -> None:
    report = make_report("a")
    only_noop = make_observation(report, space=make_space(["a"], fits={"a": ["noop"]}))
    assert growable_blueprints(report, only_noop) == ()
    assert choosable_ops(report, only_noop) == (LifecycleOp.WAIT,)
    masks = compute_masks(only_noop)
    assert not masks.ops[GERMINATE]
    assert not masks.blueprints.any()
    everything = make_observation(report)
    assert "noop" not in growable_blueprints(report, everything)
    assert LifecycleOp.GERMINATE in choosable_ops(report, everything)


def test_a_blueprint_over_the_budget_is_masked() -> None:
    observation = make_observation(make_report("a"), budgets=make_budgets(max_added_params=700))
    assert compute_masks(observation).blueprints.tolist() == [[False, True, True, True, False]]


def test_a_blueprint_that_memory_does_not_hold_is_masked() -> None:
    space = make_space(["a"])
    priced = {
        name: replace(item, memory_bytes=item.num_params) for name, item in space.descriptors["a"].items()
    }
    observation = make_observation(
        make_report("a"),
        space=replace(space, descriptors={"a": priced}),
        budgets=replace(make_budgets(), memory_bytes_left=700),
    )
    assert compute_masks(observation).blueprints.tolist() == [[False, True, True, True, False]]


def test_an_operation_that_the_space_lacks_is_never_offered() -> None:
    space = replace(make_space(["a"]), op_ids=(LifecycleOp.WAIT, LifecycleOp.CULL))
    masks = compute_masks(make_observation(make_report("a"), space=space))
    assert masks.ops.tolist() == [True, False]
    assert not masks.blueprints.any()


@pytest.mark.parametrize("stage", [SeedStage.CULLED, SeedStage.EMBARGOED, SeedStage.RESETTING])
def test_a_slot_that_cools_down_only_waits(stage: SeedStage) -> None:
    report = make_report("a", stage)
    assert choosable_ops(report, make_observation(report)) == (LifecycleOp.WAIT,)


@settings(max_examples=40)
@given(st.lists(st.one_of(observations(), wild_observations()), min_size=1, max_size=4), st.integers(0, 4))
def test_masks_of_many_hosts_are_those_of_each_then_padding_that_is_never_legal(
    hosts: list[Observation], num_slots: int
) -> None:
    many = compute_masks_many(hosts, num_slots=num_slots, num_blueprints=6)
    assert many.blueprints.shape == (len(hosts), max(num_slots, *(len(h.slots) for h in hosts), 0), 6)
    for row, host in enumerate(hosts):
        ids = host.space.blueprint_ids
        for place in range(many.slots.shape[2]):
            ops: tuple[LifecycleOp, ...] = ()
            names: tuple[str, ...] = ()
            if place < len(host.slots):
                ops = choosable_ops(host.slots[place], host)
                names = growable_blueprints(host.slots[place], host) if LifecycleOp.GERMINATE in ops else ()
            assert many.slots[row, :, place].tolist() == [op in ops for op in host.space.op_ids]
            legal = [place for place, is_legal in enumerate(many.blueprints[row, place].tolist()) if is_legal]
            assert legal == [ids.index(name) for name in names]
        found = {op for report in host.slots for op in choosable_ops(report, host)} | {LifecycleOp.WAIT}
        assert many.ops[row].tolist() == [op in found for op in host.space.op_ids]
