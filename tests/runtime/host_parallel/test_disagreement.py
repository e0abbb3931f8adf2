"""The first difference is found and told with what each rank has there."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import JsonValue, canonical_json
from esper.runtime.host_parallel.disagreement import (
    describe_difference,
    find_difference,
    sum_bits,
    to_finite,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(one=PLAIN, other=PLAIN)
def test_a_difference_is_found_exactly_where_the_texts_differ(one: JsonValue, other: JsonValue) -> None:
    assert (find_difference(one, other) is None) == (canonical_json(one) == canonical_json(other))
    assert find_difference(one, one) is None


def test_causes_are_named_before_what_follows_from_them() -> None:
    one: JsonValue = {"values": {"w": 1}, "plan": 3, "slots": {"a": {"stage": "TRAINING", "alpha": 0.5}}}
    other: JsonValue = {"values": {"w": 2}, "plan": 4, "slots": {"a": {"stage": "BLENDING", "alpha": 0.5}}}
    text = describe_difference([one, other])
    assert text == "slots.a.stage is TRAINING on rank 0, BLENDING on rank 1"


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([{"a": [1, 2]}, {"a": [1, 3]}], "a.1 is 2 on rank 0, 3 on rank 1"),
        ([{"a": [1]}, {"a": [1, 3]}], "a.1 is missing on rank 0, 3 on rank 1"),
        ([{"a": 1}, {}], "a is 1 on rank 0, missing on rank 1"),
        ([{"a": 1}, {"a": 1}, {"a": 2}], "a is 1 on rank 0, 1, 2 on rank 2; rank 2 differs from all others"),
        ([{"a": 2}, {"a": 1}, {"a": 1}], "a is 2 on rank 0, 1 on rank 1, 2; rank 0 differs from all others"),
        ([{"a": 1}, {"a": 2}, {"a": 3}], "a is 1 on rank 0, 2 on rank 1, 3 on rank 2"),
    ],
)
def test_each_rank_is_told_with_what_it_has(states: list[JsonValue], text: str) -> None:
    assert describe_difference(states) == text


def test_floats_of_canonical_text_are_told_as_numbers() -> None:
    states = [json.loads(canonical_json({"a": value})) for value in (0.5, -0.25)]
    assert describe_difference(states) == "a is 0.5 on rank 0, -0.25 on rank 1"


def test_long_values_are_cut() -> None:
    assert len(describe_difference([{"a": "x" * 10_000}, {"a": "y"}])) < 300


def test_numbers_that_are_not_finite_become_text() -> None:
    plain = to_finite({"a": [float("nan"), float("-inf"), 0.5, 1, "b", None]})
    assert plain == {"a": ["nan", "-inf", 0.5, 1, "b", None]}


@given(place=st.integers(0, 11), bit=st.integers(0, 31))
def test_every_flipped_bit_changes_the_checksum(place: int, bit: int) -> None:
    tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    before = sum_bits({"w": tensor})
    bits = tensor.view(torch.int32).view(-1)
    bits[place] ^= 1 << bit if bit < 31 else -(1 << 31)
    assert sum_bits({"w": tensor}) != before


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(()),
        torch.zeros(0),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(2, 3, dtype=torch.float64).t(),
        torch.full((2,), float("nan")),
    ],
)
def test_tensors_of_every_kind_have_a_checksum(tensor: torch.Tensor) -> None:
    assert sum_bits({"w": tensor}) == sum_bits({"w": tensor.clone()})
