"""Records as JSON that a browser can read: every field by its name, numbers that are not finite as text.

Knows no view: an event that was added later is shown as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from esper.leyline import Event, JsonValue
from esper.nissa import Record

MAX_LISTED_CHARS = 400
"""Of one text in a list; the whole text is shown where one event is shown alone."""


def to_plain(value: object) -> JsonValue:
    """Return plain data as JSON; NaN and infinities become "nan", "inf" and "-inf"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    return str(value)


def event_fields(event: Event) -> dict[str, JsonValue]:
    """Return every field of an event."""
    return {item.name: to_plain(getattr(event, item.name)) for item in fields(event)}


def list_row(n: int, record: Record) -> dict[str, JsonValue]:
    """Return a record as a row of a list: long texts cut, large tables counted instead of shown."""
    shown = {
        name: _shorten(value)
        for name, value in event_fields(record.event).items()
        if name not in ("epoch", "instance") and value not in (None, [], {}, "")
    }
    return {
        "n": n,
        "kind": record.event.kind,
        "epoch": record.event.epoch,
        "instance": record.event.instance,
        "rank": record.rank,
        "time": record.wall_time,
        "fields": shown,
    }


def _shorten(value: JsonValue) -> JsonValue:
    if isinstance(value, str) and len(value) > MAX_LISTED_CHARS:
        return value[:MAX_LISTED_CHARS] + "..."
    if isinstance(value, Mapping) and len(value) > 8:
        return f"{len(value)} values"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 8:
        return f"{len(value)} values"
    return value


def finite(value: object) -> float | None:
    """Return a number that can be drawn, else None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def finite_all(values: Iterable[object]) -> list[JsonValue]:
    """Return numbers that can be drawn, None in the place of others."""
    return [finite(value) for value in values]


def dump(value: JsonValue) -> bytes:
    """Return JSON in ASCII without NaN."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
