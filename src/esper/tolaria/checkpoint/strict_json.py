"""JSON that is refused unless it is plain: no NaN, no duplicate key, no bomb. Knows no checkpoint.

The same limits hold for writing and for reading, so that nothing is saved that could not be loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from esper.leyline import JsonValue

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 64
MAX_JSON_CONTAINERS = 2_000_000
"""Objects and arrays in one file, counted as opening brackets; an empty list takes 56 bytes once parsed."""
MAX_INTEGER_BITS = 4096
"""Python refuses to read integers of more than 4,300 decimal digits; 4,096 bits are 1,234 digits."""


def encode_json(value: object, *, where: str) -> bytes:
    """Return compact ASCII JSON; mappings become objects and sequences arrays, in their own order.

    Floats are written so that reading gives the same bits back. Integers are exact in Python at any size,
    but other readers lose digits above 2**53: whoever builds the value writes such integers as strings.

    Args:
        value: None, bool, int, float, str, and sequences and string-keyed mappings of them.
        where: Name of the value, for messages.

    Raises:
        ValueError: If a part is non-finite, of another type, nested too deep, or all of it too large;
            the message gives the path to the part.
    """
    data = json.dumps(copy_plain(value, where), separators=(",", ":"), allow_nan=False).encode("ascii")
    _check_size(data, MAX_JSON_BYTES, MAX_JSON_CONTAINERS)
    return data


def parse_json(
    data: bytes, *, max_bytes: int = MAX_JSON_BYTES, max_containers: int = MAX_JSON_CONTAINERS
) -> JsonValue:
    """Return what `data` says; limits are checked before anything is allocated.

    Args:
        data: UTF-8 text.
        max_bytes: Largest accepted length.
        max_containers: Largest accepted number of opening brackets.

    Raises:
        ValueError: If it is not JSON, exceeds a limit, or holds a duplicate key or a non-finite number.
    """
    _check_size(data, max_bytes, max_containers)
    try:
        value: JsonValue = json.loads(
            data.decode("utf-8"), object_pairs_hook=_build_object, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels") from None
    _check_parsed(value)
    return value


def _check_size(data: bytes, max_bytes: int, max_containers: int) -> None:
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of JSON, at most {max_bytes} are read")
    num_containers = data.count(b"{") + data.count(b"[")
    if num_containers > max_containers:
        raise ValueError(f"{num_containers} objects and arrays, at most {max_containers} are read")


def copy_plain(value: object, where: str, depth: int = 0) -> JsonValue:
    """Return a copy of plain data that shares nothing which could change.

    Args:
        value: None, bool, int, float, str, and sequences and string-keyed mappings of them.
        where: Name of the value, for messages.
        depth: Levels above it, in [0, 64].

    Raises:
        ValueError: If a part is non-finite, of another type or nested too deep; names the path to it.
    """
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"{where} is nested deeper than {MAX_JSON_DEPTH} levels")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise ValueError(f"{where} is an integer of more than {MAX_INTEGER_BITS} bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}; only finite numbers can be saved")
        return value
    if isinstance(value, Mapping):
        return {
            _check_key(key, where): copy_plain(item, f"{where}.{key}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [copy_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise ValueError(
        f"{where} is a {type(value).__name__}; expected None, bool, int, float, str, a list or a mapping"
    )


def _check_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{where} has the key {key!r}; keys must be strings (JSON would change it)")
    return key


def _build_object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    built = dict(pairs)
    if len(built) == len(pairs):
        return built
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"duplicate key {key[:80]!r}")
        seen.add(key)
    raise AssertionError("a dict is shorter than its pairs although every key is unique")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"non-finite number {text}")


def _check_parsed(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        deeper: list[JsonValue] = []
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError("a number is too large for a float")
            if isinstance(item, Mapping):
                deeper.extend(item.values())
            elif isinstance(item, Sequence) and not isinstance(item, str):
                deeper.extend(item)
        if not deeper:
            return
        level = deeper
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
