"""Canonical JSON and the hash of it: the one text that two processes compare to agree on a topology."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]


def canonical_json(value: JsonValue) -> str:
    """Return JSON with sorted keys, no spaces, ASCII only; floats as `float.hex()` so that text equals bits.

    Raises:
        ValueError: If a float is NaN or infinite.

    Example:
        >>> canonical_json({"b": 1, "a": 0.5})
        '{"a":"0x1.0000000000000p-1","b":1}'
    """
    return json.dumps(_freeze_floats(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_hash(value: JsonValue) -> str:
    """Return the SHA-256 hex digest of `canonical_json(value)`.

    Example:
        >>> canonical_hash({"b": 1, "a": 0.5}) == canonical_hash({"a": 0.5, "b": 1})
        True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _freeze_floats(value: JsonValue) -> JsonValue:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"canonical JSON holds finite numbers only, got {value!r}")
        return value.hex()
    if type(value) in (str, int, bool) or isinstance(value, str) or not isinstance(value, Sequence | Mapping):
        return value
    if type(value) is not list and isinstance(value, Mapping):
        return {key: _freeze_floats(item) for key, item in value.items()}
    return [_freeze_floats(item) for item in value]
