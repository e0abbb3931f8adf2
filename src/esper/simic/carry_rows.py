"""Rows of a rollout in progress as plain data, and back: what a checkpoint in the middle of a round holds.

Knows no environment, and of what was told of a step no more than that it is a table.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.simic.rollout_buffer import FinishedEpisode, QuarantinedRow

ToldStep = Mapping[str, JsonValue]
"""What is told of one step of one row, as plain data."""
_LARGEST_BYTES = 2**28


def read_rows(state: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    """Return a list of a saved carry.

    Raises:
        ForeignCheckpointError: If it is none.
    """
    rows = state.get(key)
    if not isinstance(rows, list):
        raise ForeignCheckpointError(f"saved rollout carry, field {key!r}: expected a list, got {rows!r}")
    return rows


def read_episode(row: JsonValue) -> FinishedEpisode:
    """Return a finished episode from [name, total reward, number of steps, facts].

    Raises:
        ForeignCheckpointError: If it is something else.
    """
    match row:
        case [str(name), float() | int() as reward, int(num_steps), Mapping() as facts]:
            return FinishedEpisode(name, float(reward), num_steps, facts)
        case _:
            raise ForeignCheckpointError(f"saved rollout carry, episode {row!r}: malformed")


def read_quarantined(row: JsonValue) -> QuarantinedRow:
    """Return a quarantined row from [name, row, step, reason].

    Raises:
        ForeignCheckpointError: If it is something else.
    """
    match row:
        case [str(name), int(place), int(step), str(reason)]:
            return QuarantinedRow(name, place, step, reason)
        case _:
            raise ForeignCheckpointError(f"saved rollout carry, quarantined row {row!r}: malformed")


def pack_told(steps: Sequence[ToldStep]) -> str:
    """Return what was told of one row as one text, "" if nothing was: compressed, for it repeats itself."""
    if not steps:
        return ""
    return base64.b85encode(zlib.compress(json.dumps(list(steps)).encode(), 1)).decode()


def unpack_told(text: JsonValue) -> list[ToldStep]:
    """Return what `pack_told` was given.

    Raises:
        ForeignCheckpointError: If it is no such text.
    """
    if not text:
        return []
    try:
        packed = base64.b85decode(str(text))
        steps = json.loads(zlib.decompressobj().decompress(packed, _LARGEST_BYTES))
    except (ValueError, zlib.error) as error:
        raise ForeignCheckpointError(f"saved rollout carry, what was told: {error}") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ForeignCheckpointError("saved rollout carry, what was told: expected a list of tables")
    return steps
