from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from esper.leyline import ForeignCheckpointError
from esper.tamiyo.memory import (
    read_bool,
    read_int,
    read_ints,
    read_keys,
    read_list,
    read_numbers,
    read_optional_int,
    read_optional_text,
    read_table,
)

Reader = Callable[[Mapping[str, object], str], object]


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (read_int, 3, 3),
        (read_optional_int, None, None),
        (read_optional_int, 3, 3),
        (read_bool, False, False),
        (read_optional_text, None, None),
        (read_optional_text, "a", "a"),
        (read_list, (1, "a"), [1, "a"]),
        (read_ints, [1, 2], (1, 2)),
        (read_numbers, {"a": 1}, {"a": 1.0}),
        (read_table, {"a": None}, {"a": None}),
    ],
)
def test_a_value_of_the_right_kind_is_returned(reader: Reader, value: object, expected: object) -> None:
    assert reader({"key": value}, "key") == expected


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (read_int, 3.0),
        (read_int, True),
        (read_optional_int, "3"),
        (read_bool, 1),
        (read_optional_text, 1),
        (read_list, "ab"),
        (read_ints, [1, None]),
        (read_numbers, [("a", 1)]),
        (read_numbers, {"a": True}),
        (read_numbers, {1: 1.0}),
        (read_table, None),
    ],
)
def test_a_value_of_another_kind_is_refused_by_field(reader: Reader, value: object) -> None:
    with pytest.raises(ForeignCheckpointError, match="'key'"):
        reader({"key": value}, "key")


def test_fields_must_be_exactly_the_expected() -> None:
    read_keys("p", {"a": 1, "b": 2}, ("b", "a"))
    with pytest.raises(ForeignCheckpointError, match=r"'p': fields b, c are missing or unknown"):
        read_keys("p", {"a": 1, "c": 2}, ("a", "b"))
