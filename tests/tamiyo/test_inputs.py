from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_observation, make_report, make_space
from esper.leyline import ConfigError, FeatureScale, FeatureSpec, LifecycleOp, Observation, SeedStage
from esper.tamiyo import inputs as inputs_file
from esper.tamiyo.encoding import encode
from esper.tamiyo.inputs import (
    build_inputs,
    describe_contract,
    find_contract_difference,
    observation_contract,
)
from esper.tamiyo.masks import compute_masks
from strategies import observations, wild_observations

ONE = make_observation(make_report("a", SeedStage.PROBATIONARY, can_fossilize=True))
THREE = make_observation(make_report("a"), make_report("b", SeedStage.BLENDING), make_report("c"))


@settings(max_examples=12)
@given(st.lists(observations(), min_size=1, max_size=3), st.integers(1, 5), st.integers(1, 7))
def test_each_row_is_its_encoding_and_masks_then_padding_that_is_never_legal(
    hosts: list[Observation], num_slots: int, num_blueprints: int
) -> None:
    inputs = build_inputs(hosts, num_slots=num_slots, num_blueprints=num_blueprints)
    slots = max(num_slots, *(len(host.slots) for host in hosts))
    blueprints = max(num_blueprints, *(len(host.space.blueprint_ids) for host in hosts))
    assert inputs["blueprint_exists"].shape == (len(hosts), slots, blueprints)
    for row, host in enumerate(hosts):
        encoded, masks = encode(host), compute_masks(host)
        s, b = encoded.blueprints.shape[:2]
        assert torch.equal(inputs["global"][row], encoded.global_features)
        assert torch.equal(inputs["mask_op"][row], masks.ops)
        for name, part in (
            ("slots", encoded.slots),
            ("slot_families", encoded.slot_families),
            ("slot_exists", torch.ones(s, dtype=torch.bool)),
        ):
            assert torch.equal(inputs[name][row, :s], part)
            assert not inputs[name][row, s:].any()
        for name, part in (
            ("blueprints", encoded.blueprints),
            ("blueprint_families", encoded.blueprint_families),
            ("blueprint_exists", torch.ones(s, b, dtype=torch.bool)),
            ("mask_blueprint", masks.blueprints),
        ):
            assert torch.equal(inputs[name][row, :s, :b], part)
            assert not inputs[name][row, s:].any()
            assert not inputs[name][row, :, b:].any()
        assert torch.equal(inputs["mask_slot"][row, :, :s], masks.slots)
        assert not inputs["mask_slot"][row, :, s:].any()


def test_names_and_dtypes_are_those_of_the_seam() -> None:
    inputs = build_inputs([ONE, THREE], num_slots=4)
    assert {name: tensor.dtype for name, tensor in inputs.items()} == {
        "global": torch.float32,
        "slots": torch.float32,
        "blueprints": torch.float32,
        "slot_families": torch.int64,
        "blueprint_families": torch.int64,
        "slot_exists": torch.bool,
        "blueprint_exists": torch.bool,
        "mask_op": torch.bool,
        "mask_slot": torch.bool,
        "mask_blueprint": torch.bool,
    }
    assert inputs["mask_slot"].shape == (2, 6, 4)


@settings(max_examples=12)
@given(wild_observations())
def test_whatever_was_measured_the_inputs_are_finite_and_waiting_is_legal(host: Observation) -> None:
    inputs = build_inputs([host])
    assert all(tensor.isfinite().all() for tensor in inputs.values())
    assert inputs["mask_op"][0, 0]


def test_a_host_without_slots_or_blueprints_is_padded_to_one_of_each() -> None:
    bare = replace(make_observation(), slots=(), space=make_space([], []))
    inputs = build_inputs([bare])
    assert inputs["blueprint_exists"].shape == (1, 1, 1)
    assert not inputs["slot_exists"].any()
    assert inputs["mask_op"].tolist() == [[True, False, False, False, False, False]]


@pytest.mark.parametrize(
    "change",
    [
        lambda space: replace(space, op_ids=(LifecycleOp.WAIT, LifecycleOp.CULL)),
        lambda space: replace(space, tempo_ids=(1, 3, 5, 9)),
        lambda space: replace(space, alpha_target_ids=(0.5, 1.0)),
    ],
)
def test_hosts_with_other_operations_or_arguments_do_not_share_a_batch(
    change: Callable[[object], object],
) -> None:
    other = replace(ONE, space=change(ONE.space))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"observation 1: \w+_ids=.*observation 0 has"):
        build_inputs([ONE, other])


@pytest.mark.parametrize("name", ["num_slots", "num_blueprints"])
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0: must be >= 1"):
        build_inputs([ONE], **{name: 0})


def test_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        build_inputs([])


# ---------------------------------------------------------------------- contract


def read_back() -> dict[str, list[object]]:
    """The contract as a file would hold it."""
    value = json.loads(json.dumps(describe_contract()))
    assert isinstance(value, dict)
    return value


def test_the_contract_survives_json_and_has_a_stable_id() -> None:
    assert find_contract_difference(read_back()) is None
    assert observation_contract() == observation_contract()
    assert len(observation_contract()) == 64


def test_the_contract_names_every_feature_and_head_but_no_count() -> None:
    contract = read_back()
    assert ["alpha", "fraction", 1] in contract["slots"]
    assert ["blueprint", ["GERMINATE"]] in contract["heads"]
    assert "families" in contract
    assert not any("num_" in group for group in contract)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        (
            "slots",
            lambda rows: [["stgae", "one_hot", 9], *rows[1:]],
            r"slots\[0\] was stgae .*, is now stage",
        ),
        ("global", lambda rows: rows[:-1], r"global\[\d+\] is now stage_shares fraction 9, was missing"),
        (
            "global",
            lambda rows: [*rows, ["mood", "flag", 1]],
            r"global\[\d+\] was mood flag 1, is now missing",
        ),
        ("bound", lambda bound: 5.0, r"bound\[0\] was 5.0, is now 10.0"),
        ("stages", lambda names: names[::-1], r"stages\[0\] was RESETTING, is now DORMANT"),
    ],
)
def test_the_first_difference_is_named(group: str, change: Callable[[object], object], message: str) -> None:
    saved: dict[str, object] = {**read_back()}
    saved[group] = change(saved[group])
    difference = find_contract_difference(saved)
    assert difference is not None
    assert re.search(message, difference), difference


def test_missing_and_unknown_groups_are_named() -> None:
    saved = read_back()
    del saved["blends"]
    assert find_contract_difference(saved) == "group 'blends' is missing in the saved contract"
    extra = {**read_back(), "slotz": []}
    difference = find_contract_difference(extra)
    assert difference is not None
    assert "group 'slotz' of the saved contract is unknown: did you mean 'slots'?" in difference


def test_a_changed_scale_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = observation_contract()
    mood = FeatureSpec(name="mood", scale=FeatureScale.FLAG, meaning="how it feels", width=1)
    monkeypatch.setattr(inputs_file, "SLOT_FEATURES", (mood,))
    assert observation_contract() != before
    wider = replace(mood, width=2)
    middle = observation_contract()
    monkeypatch.setattr(inputs_file, "SLOT_FEATURES", (wider,))
    assert observation_contract() != middle


def test_a_changed_meaning_in_words_alone_does_not_change_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    mood = FeatureSpec(name="mood", scale=FeatureScale.FLAG, meaning="how it feels", width=1)
    monkeypatch.setattr(inputs_file, "SLOT_FEATURES", (mood,))
    first = observation_contract()
    monkeypatch.setattr(inputs_file, "SLOT_FEATURES", (replace(mood, meaning="its mood"),))
    assert observation_contract() == first
