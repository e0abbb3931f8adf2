from __future__ import annotations

import json
import math
from collections import deque
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import canonical_hash, canonical_json

PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


def test_keys_are_sorted_and_nothing_is_padded() -> None:
    assert canonical_json({"b": [1, True, None], "a": "x"}) == '{"a":"x","b":[1,true,null]}'


def test_text_is_ascii() -> None:
    assert canonical_json("\u00e9") == '"\\u00e9"'


def test_floats_are_their_bits() -> None:
    assert canonical_json(0.1) == '"0x1.999999999999ap-4"'
    assert canonical_json(0.1 + 0.2) != canonical_json(0.3)
    assert canonical_json(0.0) != canonical_json(-0.0)
    assert canonical_json(1.0) != canonical_json(1)


def test_tuples_and_lists_are_one() -> None:
    assert canonical_json((1, (2,))) == canonical_json([1, [2]])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        canonical_json({"deep": [value]})


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_order_of_keys_does_not_matter(value: dict[str, None]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert canonical_hash(value) == canonical_hash(backwards)
    json.loads(canonical_json(value))


def test_the_hash_is_sha256_of_the_text() -> None:
    assert canonical_hash([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert canonical_hash([]) != canonical_hash({})


def test_kinds_of_sequences_tables_and_numbers_do_not_matter() -> None:
    class Number(float):
        pass

    table = MappingProxyType({"a": deque([Number(0.5), "text", 3])})
    assert canonical_json(table) == canonical_json({"a": [0.5, "text", 3]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        canonical_json(deque([Number("nan")]))
