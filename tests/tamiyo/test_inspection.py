"""What is said of a decision: the features and masks that the policy was given, by name, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from builders import make_observation, make_report
from esper.leyline import (
    FEATURE_BOUND,
    GLOBAL_FEATURES,
    SLOT_FEATURES,
    WAIT,
    Action,
    Decision,
    Evidence,
    LifecycleOp,
    SeedStage,
    feature_columns,
    legal_blueprints,
    legal_ops,
)
from esper.tamiyo import (
    NeverGrow,
    RecurrentPolicy,
    add_evidence,
    build_inputs,
    describe_features,
    describe_legal,
    encode,
    list_used_heads,
    name_heads,
    round_number,
)
from tamiyo.network.network_cases import SMALL, make_network

MIXED = make_observation(
    make_report("a"),
    make_report("b", SeedStage.PROBATIONARY, can_fossilize=True),
    make_report("c", SeedStage.BLENDING),
)
GERMINATE = Action(op=LifecycleOp.GERMINATE, slot="a", blueprint=MIXED.space.blueprint_ids[0])


def test_every_feature_that_is_not_0_is_said_by_its_name_in_4_digits() -> None:
    shown = describe_features(build_inputs([MIXED], num_slots=5), 0, MIXED.space.slot_ids)
    encoded = encode(MIXED)
    expected = dict(zip(feature_columns(GLOBAL_FEATURES), encoded.global_features.tolist(), strict=True))
    for place, slot in enumerate(MIXED.space.slot_ids):
        names = (f"{slot}/{name}" for name in feature_columns(SLOT_FEATURES))
        expected |= dict(zip(names, encoded.slots[place].tolist(), strict=True))
    assert set(shown) == {name for name, value in expected.items() if value != 0.0}
    for name, value in shown.items():
        assert value == pytest.approx(expected[name], rel=5.1e-4)
        assert abs(value) <= FEATURE_BOUND
        assert len(f"{abs(value):.10e}".split("e")[0].rstrip("0").replace(".", "")) <= 4


def test_the_row_that_is_asked_for_is_described() -> None:
    other = replace(MIXED, signals=replace(MIXED.signals, epoch=3))
    inputs = build_inputs([MIXED, other])
    ids = MIXED.space.slot_ids
    assert describe_features(inputs, 1, ids) == describe_features(build_inputs([other]), 0, ids)


@pytest.mark.parametrize("op", list(LifecycleOp))
def test_the_mask_of_slots_is_that_of_the_operation(op: LifecycleOp) -> None:
    action = GERMINATE if op is LifecycleOp.GERMINATE else Action(op=op, slot="b")
    shown = describe_legal(build_inputs([MIXED], num_slots=6), 0, action, MIXED.space)
    assert tuple(shown) == list_used_heads(action)
    legal_somewhere = {legal for report in MIXED.slots for legal in legal_ops(report, MIXED)}
    named = dict(zip(MIXED.space.op_ids, shown["op"], strict=True))
    assert {each for each, is_legal in named.items() if is_legal} == legal_somewhere
    if op is not LifecycleOp.WAIT:
        assert shown["slot"] == tuple(op in legal_ops(report, MIXED) for report in MIXED.slots)


def test_the_mask_of_blueprints_is_that_of_the_slot_and_arguments_are_always_legal() -> None:
    shown = describe_legal(build_inputs([MIXED]), 0, GERMINATE, MIXED.space)
    could = legal_blueprints(MIXED.slots[0], MIXED)
    ids = MIXED.space.blueprint_ids
    assert shown["blueprint"] == tuple(name in could and name != "noop" for name in ids)
    sizes = {head: len(names) for head, names in name_heads(MIXED.space).items()}
    assert {head: len(mask) for head, mask in shown.items()} == sizes
    assert all(all(shown[head]) for head in ("blend", "curve", "tempo", "alpha_target"))


def test_a_slot_that_the_host_lacks_has_no_mask_of_blueprints() -> None:
    shown = describe_legal(build_inputs([MIXED]), 0, replace(GERMINATE, slot="nowhere"), MIXED.space)
    assert "blueprint" not in shown
    assert "slot" in shown


def test_a_learned_policy_says_what_it_was_given_and_a_probability_for_every_option() -> None:
    policy = RecurrentPolicy(make_network(SMALL, spread=0.3), seed=1)
    decision = policy.decide(MIXED)
    evidence = decision.evidence
    assert evidence is not None
    assert evidence.observation == describe_features(build_inputs([MIXED]), 0, MIXED.space.slot_ids)
    assert tuple(evidence.masks) == tuple(evidence.probabilities) == list_used_heads(decision.action)
    for head, probabilities in evidence.probabilities.items():
        assert math.isclose(sum(probabilities), 1.0, rel_tol=1e-5)
        pairs = zip(probabilities, evidence.masks[head], strict=True)
        assert all(is_legal or probability == 0.0 for probability, is_legal in pairs)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_rule_gets_what_it_did_not_note_itself(is_kept: bool) -> None:
    decision = add_evidence(NeverGrow().decide(MIXED), MIXED, is_observation_kept=is_kept)
    assert decision.evidence is not None
    assert bool(decision.evidence.observation) == is_kept
    assert decision.evidence.masks == describe_legal(build_inputs([MIXED]), 0, WAIT, MIXED.space)
    assert decision.evidence.probabilities == {}


def test_what_a_policy_said_stays_but_features_that_are_not_kept() -> None:
    said = Evidence(observation={"x": 1.0}, masks={"op": (True,)}, scores={"a": 0.5}, value=2.0)
    decision = Decision(evidence=said)
    assert add_evidence(decision, MIXED, is_observation_kept=True) == decision
    dropped = add_evidence(decision, MIXED, is_observation_kept=False)
    assert dropped.evidence == replace(said, observation={})


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.123456, 0.1235), (-9.87654, -9.877), (1e-9, 1e-9), (1.0, 1.0)]
)
def test_numbers_keep_4_significant_digits(value: float, rounded: float) -> None:
    assert round_number(value) == rounded
