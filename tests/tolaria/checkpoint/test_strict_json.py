from __future__ import annotations

import json
from enum import IntEnum
from types import MappingProxyType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import JsonValue
from esper.tolaria.checkpoint.strict_json import MAX_JSON_DEPTH, encode_json, parse_json

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def _nested(depth: int) -> JsonValue:
    value: JsonValue = 1
    for _ in range(depth):
        value = [value]
    return value


@given(VALUES)
def test_what_is_written_reads_back_bit_for_bit(value: JsonValue) -> None:
    data = encode_json(value, where="value")
    assert repr(parse_json(data)) == repr(value)


@given(
    st.binary(max_size=200)
    | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\ ', max_size=60).map(str.encode)
)
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    try:
        encode_json(parse_json(data), where="value")
    except ValueError:
        return


def test_tuples_and_mappings_become_lists_and_objects() -> None:
    class Stage(IntEnum):
        TRAINING = 3

    value = {"a": (1, 2), "b": MappingProxyType({"c": Stage.TRAINING})}
    assert parse_json(encode_json(value, where="value")) == {"a": [1, 2], "b": {"c": 3}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1.0, float("nan")]}, r"state\.a\[1\] is nan"),
        ({"a": float("inf")}, r"state\.a is inf"),
        ({"a": {1: 2}}, r"state\.a has the key 1; keys must be strings"),
        ({"a": torch.tensor(1.0)}, r"state\.a is a Tensor; expected None"),
        ({"a": b"bytes"}, r"state\.a is a bytes"),
        ({"a": {1, 2}}, r"state\.a is a set"),
        (1 << 4096, "more than 4096 bits"),
        (_nested(MAX_JSON_DEPTH + 1), "nested deeper than 64"),
    ],
)
def test_what_json_would_change_is_refused_with_its_path(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_json(value, where="state")


def test_the_deepest_value_that_is_written_can_be_read() -> None:
    value = _nested(MAX_JSON_DEPTH)
    assert parse_json(encode_json(value, where="value")) == value


def test_the_longest_integer_that_is_written_can_be_read() -> None:
    value = -((1 << 4096) - 1)
    assert parse_json(encode_json(value, where="value")) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"b":2,"a":3}', "duplicate key 'a'"),
        (b'{"x":{"a":1,"a":1}}', "duplicate key 'a'"),
        (b"[NaN]", "non-finite number NaN"),
        (b"[-Infinity]", "non-finite number -Infinity"),
        (b"[1e400]", "too large for a float"),
        (b"9" * 5000, "4300 digits"),
        (b"[" * 65 + b"1" + b"]" * 65, "nested deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64"),
        (b"\xff\xfe", "codec can't decode"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
    ],
)
def test_json_that_is_not_plain_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(data)


def test_limits_hold_before_parsing_and_for_writing() -> None:
    with pytest.raises(ValueError, match="101 bytes of JSON, at most 100"):
        parse_json(b" " * 101, max_bytes=100)
    with pytest.raises(ValueError, match="3 objects and arrays, at most 2"):
        parse_json(b"[[],[]]", max_containers=2)
    with pytest.raises(ValueError, match="bytes of JSON, at most"):
        encode_json("x" * (16 * 2**20), where="value")


def test_the_encoding_is_ascii() -> None:
    data = encode_json({"\u00e9": "\ud800"}, where="value")
    assert data.isascii()
    assert json.loads(data) == {"\u00e9": "\ud800"}
