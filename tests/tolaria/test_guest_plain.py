"""Plain data there and back with its types; nothing else."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.leyline import ConfigError, ForeignCheckpointError, JsonValue
from esper.tolaria.guest_plain import decode_plain, encode_plain

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def _round_trip(value: object) -> object:
    return decode_plain(json.loads(json.dumps(encode_plain(value, "it"), allow_nan=False)), "it")


@given(value=trees)
def test_what_goes_through_strict_json_comes_back_with_its_types(value: object) -> None:
    assert repr(_round_trip(value)) == repr(value)


def test_counters_nan_and_small_tensors_come_back() -> None:
    counter = _round_trip(Counter([2, 5, 5]))
    assert isinstance(counter, Counter)
    assert counter == {2: 1, 5: 2}
    assert math.isnan(float(str(_round_trip(math.nan))))
    for tensor in (torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64), torch.tensor(-math.inf)):
        found = _round_trip(tensor)
        assert isinstance(found, Tensor)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


@pytest.mark.parametrize("value", [object(), torch.zeros(2), {(1, 2): 3}, [{"a": {1, 2}}], len])
def test_anything_else_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(ConfigError, match=r"the state.* holds a \w+, which is not plain data"):
        encode_plain(value, "the state")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "float", "value": "1.0"},
        {"kind": "dict", "value": [["a"]]},
        {"kind": "dict", "value": [[["a"], 1]]},
        {"kind": "tensor:torch.float32", "value": "x"},
        {"kind": "tensor:torch.qint8", "value": 1},
        {"kind": "object", "value": 1},
        [{"kind": 3, "value": 1}],
    ],
)
def test_malformed_data_are_refused(value: JsonValue) -> None:
    with pytest.raises(ForeignCheckpointError, match=r"the state: .* is malformed"):
        decode_plain(value, "the state")
