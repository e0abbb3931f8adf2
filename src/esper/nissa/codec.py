"""Event <-> one line of JSON, by rules derived from the event dataclasses: a new event needs no code here.

A line is always valid JSON in ASCII: a NaN or an infinity becomes null and its place is listed under
"nonfinite", a lone surrogate becomes an escape, a long text is cut. Knows no file.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import NoReturn, Union, final, get_args, get_origin, get_type_hints

from esper.leyline import EVENT_TYPES, DataError, Event, JsonValue, UnknownNameError
from esper.nissa.record import Record

SCHEMA_VERSION = 1
"""Version of the lines written here; another one is refused."""
MAX_TEXT_CHARS = 4096
"""Longest text kept in a field or key, in characters; room for a traceback, not for a tensor's print."""

_NONFINITE: Mapping[str, float] = MappingProxyType({"nan": math.nan, "inf": math.inf, "-inf": -math.inf})
_HEADER_KIND = "Header"

FieldReader = Callable[[object, str], object]
"""(JSON value, where it stands) -> field value; raises DataError."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """First line of an event file."""

    run_id: str
    rank: int
    start_time: float
    """When the file was begun, seconds since 1970-01-01 UTC."""
    schema_version: int = SCHEMA_VERSION


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTree:
    """JSON data without NaN or infinity, and where those stood."""

    value: JsonValue
    nonfinite: tuple[tuple[str | int, ...], ...]
    """Per lost number: the path of keys and indices to it, then "nan", "inf" or "-inf"."""


def to_plain_tree(value: object) -> PlainTree:
    """Turn plain Python data into JSON data that keeps every number's meaning.

    Args:
        value: None, bool, int, float, str, or sequences and string-keyed mappings of them.

    Raises:
        TypeError: If something else is inside; names its path and type.

    Example:
        >>> to_plain_tree({"loss": [0.5, math.inf]})
        PlainTree(value={'loss': [0.5, None]}, nonfinite=(('loss', 1, 'inf'),))
    """
    lost: list[tuple[str | int, ...]] = []
    return PlainTree(value=_to_plain(value, (), lost), nonfinite=tuple(lost))


def encode_header(header: Header) -> str:
    """Return the header as one line of JSON, without a line end.

    Example:
        >>> encode_header(log.headers[0])[:16]
        '{"kind":"Header"'
    """
    return _dump(
        {
            "kind": _HEADER_KIND,
            "schema_version": header.schema_version,
            "run_id": cap_text(header.run_id),
            "rank": header.rank,
            "start_time": header.start_time,
        }
    )


def encode_record(record: Record) -> str:
    """Return a record as one line of JSON, without a line end.

    Raises:
        TypeError: If the event holds something that is not plain data.

    Example:
        >>> encode_record(log.records[0])[:20]
        '{"kind":"RunStarted"'
    """
    line: dict[str, JsonValue] = {
        "kind": record.event.kind,
        "run_id": cap_text(record.run_id),
        "attempt": record.attempt,
        "rank": record.rank,
        "seq": record.seq,
        "wall_time": record.wall_time,
    }
    return _dump(line | encode_event(record.event))


def encode_event(event: Event) -> dict[str, JsonValue]:
    """Return {"kind", "event"} and, where a number is not finite, "nonfinite".

    Raises:
        TypeError: If the event holds something that is not plain data.
    """
    tree = to_plain_tree({item.name: getattr(event, item.name) for item in fields(event)})
    line: dict[str, JsonValue] = {"kind": event.kind, "event": tree.value}
    if tree.nonfinite:
        line["nonfinite"] = tree.nonfinite
    return line


def decode_line(line: str | bytes) -> Header | Record:
    """Read back what `encode_header` or `encode_record` wrote; the event equals the one written.

    Two things do not come back: what `MAX_TEXT_CHARS` cut, and a surrogate pair kept as two characters, which
    returns as the one character that it means.

    Raises:
        DataError: If the line is not JSON, lacks a field, has a field too many, or one of the wrong type.
        UnknownNameError: If the kind of event does not exist.

    Example:
        >>> decode_line(encode_record(log.records[0])) == log.records[0]
        True
    """
    data = _require_mapping(_parse(line), "line")
    kind = _read_str(_take(data, "kind"), "kind")
    if kind == _HEADER_KIND:
        return _decode_header(data)
    if kind not in _SCHEMAS:
        raise UnknownNameError("event kind", kind, _SCHEMAS)
    return Record(
        run_id=_read_str(_take(data, "run_id"), "run_id"),
        attempt=_read_int(_take(data, "attempt"), "attempt"),
        rank=_read_int(_take(data, "rank"), "rank"),
        seq=_read_int(_take(data, "seq"), "seq"),
        wall_time=_read_float(_take(data, "wall_time"), "wall_time"),
        event=decode_event(kind, _take(data, "event"), data.get("nonfinite", [])),
    )


def decode_event(kind: str, body: object, nonfinite: object = ()) -> Event:
    """Build the event of a given kind from its JSON fields.

    Raises:
        DataError: If a field is missing, unknown or of the wrong type.
        UnknownNameError: If the kind does not exist.

    Example:
        >>> decode_event("Notice", {"epoch": 3, "text": "hello"})
        Notice(epoch=3, instance=0, text='hello', is_about_process=False)
    """
    schema = _SCHEMAS.get(kind)
    if schema is None:
        raise UnknownNameError("event kind", kind, _SCHEMAS)
    for entry in _require_list(nonfinite, "nonfinite"):
        *path, name = _require_list(entry, "nonfinite") or [None]
        if not isinstance(name, str) or name not in _NONFINITE:
            raise DataError(f"nonfinite entry {entry!r}: expected keys, then one of {sorted(_NONFINITE)}")
        body = _put_back(body, path, _NONFINITE[name])
    values = _require_mapping(body, kind)
    unknown = sorted(set(values) - set(schema.readers))
    missing = sorted(schema.required - set(values))
    if unknown or missing:
        raise DataError(f"{kind}: unknown fields {unknown}, missing fields {missing}")
    build: Callable[..., Event] = schema.event_type
    return build(**{name: schema.readers[name](value, f"{kind}.{name}") for name, value in values.items()})


def cap_text(text: str) -> str:
    """Cut a text to `MAX_TEXT_CHARS`; the end then tells its length and hash, so cut texts stay distinct."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    ending = f"...[cut: {len(text)} characters, sha256 {digest}]"
    return text[: MAX_TEXT_CHARS - len(ending)] + ending


# ---------------------------------------------------------------------- writing


def _dump(line: Mapping[str, JsonValue]) -> str:
    return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _to_plain(value: object, path: tuple[str | int, ...], lost: list[tuple[str | int, ...]]) -> JsonValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return cap_text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        lost.append((*path, "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"))
        return None
    if isinstance(value, Mapping):
        return {key: _to_plain(item, (*path, key), lost) for key, item in _string_keys(value, path)}
    if isinstance(value, tuple | list):
        return [_to_plain(item, (*path, index), lost) for index, item in enumerate(value)]
    raise TypeError(f"{_where(path)} holds a {type(value).__name__}; expected plain numbers, text or None")


def _string_keys(value: Mapping[object, object], path: tuple[str | int, ...]) -> list[tuple[str, object]]:
    items = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{_where(path)} has the key {key!r}; expected text")
        items.append((cap_text(key), item))
    return items


def _where(path: tuple[str | int, ...]) -> str:
    return "/".join(map(str, path)) or "value"


# ---------------------------------------------------------------------- reading


def _parse(line: str | bytes) -> object:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a line of JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _decode_header(data: Mapping[str, object]) -> Header:
    version = _read_int(_take(data, "schema_version"), "schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"event file has schema version {version}, this program reads version {SCHEMA_VERSION}; "
            "read it with the release that wrote it"
        )
    return Header(
        run_id=_read_str(_take(data, "run_id"), "run_id"),
        rank=_read_int(_take(data, "rank"), "rank"),
        start_time=_read_float(_take(data, "start_time"), "start_time"),
        schema_version=version,
    )


def _take(data: Mapping[str, object], key: str) -> object:
    if key not in data:
        raise DataError(f"line lacks {key!r}; it has {sorted(data)}")
    return data[key]


def _put_back(place: object, path: list[object], number: float) -> object:
    """Return `place` with the null at `path` (keys and indices) replaced by the number that it stands for."""
    if not path:
        return (
            number if place is None else _refuse_type("null where a number is not finite", place, "nonfinite")
        )
    key, rest = path[0], path[1:]
    if isinstance(place, dict) and isinstance(key, str) and key in place:
        return {**place, key: _put_back(place[key], rest, number)}
    if isinstance(place, list) and type(key) is int and 0 <= key < len(place):
        return [*place[:key], _put_back(place[key], rest, number), *place[key + 1 :]]
    raise DataError(f"nonfinite entry points at {key!r}, which is not there")


def _refuse_type(expected: str, value: object, where: str) -> NoReturn:
    raise DataError(f"{where}: expected {expected}, got {type(value).__name__}")


def _require_mapping(value: object, where: str) -> Mapping[str, object]:
    return value if isinstance(value, dict) else _refuse_type("an object", value, where)


def _require_list(value: object, where: str) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else _refuse_type("a list", value, where)


def _read_bool(value: object, where: str) -> bool:
    return value if isinstance(value, bool) else _refuse_type("true or false", value, where)


def _read_int(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    _refuse_type("a whole number", value, where)


def _read_float(value: object, where: str) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    _refuse_type("a number", value, where)


def _read_str(value: object, where: str) -> str:
    return value if isinstance(value, str) else _refuse_type("text", value, where)


_SCALARS: Mapping[object, FieldReader] = MappingProxyType(
    {bool: _read_bool, int: _read_int, float: _read_float, str: _read_str}
)


def _build_reader(hint: object) -> FieldReader:
    """Return the reader of one field type: a scalar, `X | None`, `tuple[X, ...]` or `Mapping[str, X]`."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        inner = _build_reader(args[0])
        return lambda value, where: None if value is None else inner(value, where)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = _build_reader(args[0])
        return lambda value, where: tuple(item(each, where) for each in _require_list(value, where))
    if origin is Mapping and args[0] is str:
        item = _build_reader(args[1])
        return lambda value, where: {
            key: item(each, where) for key, each in _require_mapping(value, where).items()
        }
    raise TypeError(f"the codec has no rule for fields of type {hint!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Schema:
    event_type: type[Event]
    readers: Mapping[str, FieldReader]
    required: frozenset[str]


def _build_schema(event_type: type[Event]) -> _Schema:
    hints = get_type_hints(event_type)
    own = fields(event_type)
    return _Schema(
        event_type=event_type,
        readers=MappingProxyType({item.name: _build_reader(hints[item.name]) for item in own}),
        required=frozenset(
            item.name for item in own if item.default is MISSING and item.default_factory is MISSING
        ),
    )


_SCHEMAS: Mapping[str, _Schema] = MappingProxyType(
    {event_type.__name__: _build_schema(event_type) for event_type in EVENT_TYPES}
)
