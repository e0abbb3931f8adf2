"""Small JSON files that one process replaces and others read meanwhile. Knows no rank.

A reader sees the old or the new file, never half of one. Nothing is flushed to the device: these files tell
of processes that die, and none of them outlives its use when the machine goes down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast, final

from esper.leyline import JsonValue

MAX_BYTES = 65_536
"""Largest file that is read; what we write is below 10,000 bytes, texts being cut."""
MAX_TEXT = 1_000
"""Characters kept of a text; escaped, each takes up to 12 bytes."""


@final
class DamagedRecordError(Exception):
    """Raised when a file is no record: cut, foreign, too large, or with a field of another type."""


def write_record(path: Path, record: Mapping[str, JsonValue]) -> None:
    """Put a record in the place of `path`; one process at a time writes there.

    Raises:
        OSError: If the folder cannot be written; then `path` is as it was.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(json.dumps(record, ensure_ascii=True, allow_nan=False), encoding="ascii")
    temporary.replace(path)


def read_record(path: Path) -> dict[str, object]:
    """Return what is in a file.

    Raises:
        FileNotFoundError: If there is none.
        DamagedRecordError: If it cannot be read or is no JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DamagedRecordError(f"{path.name}: more than {MAX_BYTES} bytes")
        record = json.loads(data)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path.name}: {error}") from error
    if not isinstance(record, dict):
        raise DamagedRecordError(f"{path.name}: not an object")
    return cast("dict[str, object]", record)


def take_number(record: Mapping[str, object], name: str, low: int = 0) -> int:
    """Return a whole number of at least `low`.

    Raises:
        DamagedRecordError: If it is missing, something else, or less.
    """
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise DamagedRecordError(f"{name} is {str(value)[:80]!r}, not a whole number >= {low}")
    return value


def take_text(record: Mapping[str, object], name: str) -> str:
    """Return a text, cut to `MAX_TEXT` characters.

    Raises:
        DamagedRecordError: If it is missing or something else.
    """
    value = record.get(name)
    if not isinstance(value, str):
        raise DamagedRecordError(f"{name} is no text")
    return value[:MAX_TEXT]
