"""Every event comes back equal from one line of valid JSON, whatever its numbers and names are."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import EVENT_TYPES, DataError, Event, Notice, UnknownNameError
from esper.nissa import Header, Record, decode_line, encode_header, encode_record
from esper.nissa.codec import (
    MAX_TEXT_CHARS,
    SCHEMA_VERSION,
    FieldReader,
    _build_reader,
    cap_text,
    decode_event,
    to_plain_tree,
)
from nissa.sample_run import finished_epoch, numbered

NAMES = st.text(max_size=12)
ODD_TEXT = st.text(st.characters(codec=None, categories=("L", "N", "Cs", "Cc", "P")), max_size=12)


def values_of(hint: object) -> st.SearchStrategy[object]:
    """Any value of an event field's type."""
    scalars: dict[object, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        int: st.integers(-(2**70), 2**70),
        float: st.floats(),
        str: NAMES,
    }
    if hint in scalars:
        return scalars[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.none() | values_of(args[0])
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    assert origin is Mapping
    return st.dictionaries(NAMES, values_of(args[1]), max_size=3)


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of one type."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{item.name: values_of(hints[item.name]) for item in fields(kind)})


EVENTS = st.one_of(*[events_of(kind) for kind in EVENT_TYPES])


def same(left: object, right: object) -> bool:
    """Equality in which a NaN equals a NaN, and types count."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def round_trip(event: Event) -> Event:
    (record,) = numbered([event])
    line = encode_record(record)
    assert line.isascii()
    assert "\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(f"bare {name}"))
    back = decode_line(line)
    assert isinstance(back, Record)
    assert replace(back, event=event) == record
    return back.event


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
def test_every_event_type_round_trips(kind: type[Event]) -> None:
    @given(events_of(kind))
    def check(event: Event) -> None:
        back = round_trip(event)
        assert type(back) is type(event)
        for item in fields(event):
            assert same(getattr(event, item.name), getattr(back, item.name)), item.name

    check()


@given(ODD_TEXT)
@pytest.mark.battery("T48")
def test_lone_surrogates_and_controls_survive(text: str) -> None:
    back = round_trip(Notice(epoch=1, text=text))
    assert isinstance(back, Notice)
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert back.text in (text, joined)  # a pair of surrogates means one character


@pytest.mark.battery("T48")
def test_nonfinite_numbers_are_null_and_flagged_by_place() -> None:
    event = replace(
        finished_epoch(1), train_loss=math.nan, metric=-math.inf, raw_metrics={"a/b": math.inf, "c": 1.0}
    )
    line = json.loads(encode_record(numbered([event])[0]))
    assert line["event"]["train_loss"] is None
    assert line["event"]["raw_metrics"] == {"a/b": None, "c": 1.0}
    assert sorted(line["nonfinite"]) == [
        ["metric", "-inf"],
        ["raw_metrics", "a/b", "inf"],
        ["train_loss", "nan"],
    ]


def test_a_sound_line_has_no_flags() -> None:
    assert "nonfinite" not in json.loads(encode_record(numbered([finished_epoch(1)])[0]))


@pytest.mark.battery("T48")
def test_a_megabyte_of_text_is_cut_and_stays_distinct() -> None:
    texts = ["x" * 1_000_000 + end for end in ("a", "b")]
    first, second = (round_trip(Notice(epoch=0, text=text)) for text in texts)
    assert isinstance(first, Notice)
    assert len(first.text) == MAX_TEXT_CHARS
    assert "1000001 characters" in first.text
    assert first != second
    assert round_trip(first) == first


def test_text_at_the_limit_is_whole() -> None:
    assert cap_text("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS


def test_the_hardest_line_is_valid_json() -> None:
    raw = {"\ud800" + "n" * 1_000_000: math.nan, "ok": 1.0}
    line = encode_record(numbered([replace(finished_epoch(1), raw_metrics=raw, train_loss=-math.inf)])[0])
    assert len(line) < 10_000
    back = decode_line(line)
    assert isinstance(back, Record)
    assert encode_record(back) == line


def test_header_round_trips() -> None:
    header = Header(run_id="digits-0", rank=3, start_time=12.5)
    assert decode_line(encode_header(header)) == header


def test_another_schema_version_is_refused_with_a_remedy() -> None:
    line = encode_header(Header(run_id="a", rank=0, start_time=0.0, schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(DataError, match="read it with the release that wrote it"):
        decode_line(line)


def test_an_unknown_kind_is_refused_and_names_the_nearest() -> None:
    line = encode_record(numbered([Notice(epoch=0, text="")])[0]).replace("Notice", "Notize")
    with pytest.raises(UnknownNameError, match="did you mean 'Notice'"):
        decode_line(line)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"event": {"epoch": 1}}, "missing fields"),
        ({"event": {"epoch": 1, "text": "a", "more": 1}}, "unknown fields"),
        ({"event": {"epoch": True, "text": "a"}}, "Notice.epoch: expected a whole number, got bool"),
        ({"event": {"epoch": 1, "text": 5}}, "Notice.text: expected text"),
        ({"event": []}, "expected an object, got list"),
        ({"seq": "1"}, "seq: expected a whole number"),
        ({"wall_time": None}, "wall_time: expected a number"),
        ({"nonfinite": [["no_such_field", "nan"]]}, "not there"),
        ({"nonfinite": [["text", "nan"]]}, "expected null"),
        ({"nonfinite": [["text", "huge"]]}, "expected keys, then one of"),
        ({"nonfinite": [[]]}, "expected keys, then one of"),
        ({"nonfinite": 3}, "expected a list"),
        ({"kind": 1}, "kind: expected text"),
    ],
)
def test_a_damaged_line_is_refused_by_field(change: dict[str, object], problem: str) -> None:
    line = json.loads(encode_record(numbered([Notice(epoch=0, text="")])[0]))
    with pytest.raises(DataError, match=problem):
        decode_line(json.dumps(line | change))


@pytest.mark.parametrize(
    "line", ["", "{", "[1]", "NaN", '{"kind": "Notice"}', "[" * 100_000, b"\xff\xfe{", "null"], ids=range(8)
)
def test_what_is_not_a_record_is_refused(line: str | bytes) -> None:
    with pytest.raises(DataError):
        decode_line(line)


def test_wrong_types_inside_containers_are_refused() -> None:
    gate = {"epoch": 1, "slot": "a", "seed_id": "b", "gate": "G0", "is_passed": 1, "passed": [], "failed": []}
    with pytest.raises(DataError, match="is_passed: expected true or false"):
        decode_event("GateEvaluated", gate)
    with pytest.raises(DataError, match="failed: expected text"):
        decode_event("GateEvaluated", gate | {"is_passed": True, "failed": [1]})
    with pytest.raises(DataError, match="measured: expected a number"):
        decode_event("GateEvaluated", gate | {"is_passed": True, "measured": {"x": "1"}})


def test_fields_with_defaults_may_be_missing() -> None:
    assert decode_event("Notice", {"epoch": 2, "text": "a"}) == Notice(epoch=2, text="a")


def test_numbers_in_lists_are_put_back() -> None:
    tree = to_plain_tree({"p": (1.0, math.nan)})
    assert tree.value == {"p": [1.0, None]}
    assert tree.nonfinite == (("p", 1, "nan"),)


@pytest.mark.parametrize("value", [object(), {"a": b"bytes"}, {1: 2}, [{"x": {3}}]], ids=range(4))
def test_what_is_not_plain_data_is_refused_by_place(value: object) -> None:
    with pytest.raises(TypeError, match="expected"):
        to_plain_tree(value)


def test_a_field_type_without_a_rule_is_found_at_import() -> None:
    build: FieldReader | None = None
    with pytest.raises(TypeError, match="no rule"):
        build = _build_reader(set[int])
    assert build is None


@given(EVENTS)
def test_encoding_is_a_function_of_the_event(event: Event) -> None:
    (record,) = numbered([event])
    line = encode_record(record)
    back = decode_line(line)
    assert isinstance(back, Record)
    assert encode_record(back) == line
