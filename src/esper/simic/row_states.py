"""Saved trainings by rows: those of several ranks as one, and one dealt to several ranks.

```
rank 0: rows 0 1 |                              | rank 0: rows 0
rank 1: rows 2 3 |  join_rows -> rows 0 1 2 3 ->  pick_rows | rank 1: rows 1
                 |  the very record that one    | rank 2: rows 2 3
                 |  process with 4 rows saves   |
```
What is saved is therefore keyed by environment, never by rank, and a restart may deal the environments anew.
The learner and everything that ranks agree on is the same on all of them: rank 0's is taken. Knows the names
of a training's parts, and nothing of what the numbers mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria import StateRecord

_ROW_PARTS = ("buffer/", "carry/")
_MEMORY = re.compile(r"(buffer|carry)/memory\.")
_HOST = re.compile(r"env/host(\d+)\.(.*)", re.DOTALL)
_ENV_LISTS = ("episodes", "rewards", "has_ended")


def count_rows(record: StateRecord) -> int:
    """Return the number of environments in a saved training.

    Raises:
        ForeignCheckpointError: If it holds none.
    """
    flags = record.tensors.get("carry/has_ended")
    if flags is None:
        raise ForeignCheckpointError(
            "saved training: carry/has_ended is missing, so that its rows are unknown"
        )
    return len(flags)


def join_rows(records: Sequence[StateRecord]) -> StateRecord:
    """Return one record of all rows, in the order of the ranks.

    Args:
        records: One per rank, all saved at the same step.

    Raises:
        ForeignCheckpointError: If there is none, or they were saved at different steps.
    """
    if not records:
        raise ForeignCheckpointError("saved training: no rank's record")
    steps = {(record.state["round"], _part(record, "buffer")["num_steps"]) for record in records}
    if len(steps) > 1:
        raise ForeignCheckpointError(
            f"saved training: ranks stand at different steps {sorted(map(str, steps))}"
        )
    counts = [count_rows(record) for record in records]
    first = records[0]
    tensors: dict[str, Tensor] = {}
    for name, tensor in first.tensors.items():
        if name.startswith(_ROW_PARTS):
            tensors[name] = torch.cat([r.tensors[name] for r in records], dim=_row_dim(name))
        elif not _HOST.fullmatch(name):
            tensors[name] = tensor
    start = 0
    for record, count in zip(records, counts, strict=True):
        tensors |= _renumber(record.tensors, {row: start + row for row in range(count)})
        start += count
    return StateRecord(tensors=tensors, state=_join_state(records, counts))


def pick_rows(record: StateRecord, rows: Sequence[int], *, is_first: bool) -> StateRecord:
    """Return the record of some rows.

    Args:
        record: Of a whole training.
        rows: Places in it, in the order wanted, each once.
        is_first: Whether this rank goes on with the report of the running rollout: its finished episodes and
            the number of its steps belong to no row any more.

    Raises:
        ForeignCheckpointError: If the record has no such row.
    """
    available = count_rows(record)
    if not rows or len(set(rows)) != len(rows) or not set(rows) <= set(range(available)):
        raise ForeignCheckpointError(
            f"saved training of {available} environments: cannot take rows {list(rows)}"
        )
    index = torch.tensor(list(rows))
    tensors: dict[str, Tensor] = {}
    for name, tensor in record.tensors.items():
        if name.startswith(_ROW_PARTS):
            tensors[name] = tensor.index_select(_row_dim(name), index.to(tensor.device))
        elif not _HOST.fullmatch(name):
            tensors[name] = tensor
    tensors |= _renumber(record.tensors, {row: place for place, row in enumerate(rows)})
    return StateRecord(tensors=tensors, state=_pick_state(record, rows, is_first=is_first))


# ------------------------------------------------------------------ tensors


def _row_dim(name: str) -> int:
    """Memories are [L, E, D], everything else of these parts is [E, ...]."""
    return 1 if _MEMORY.match(name) else 0


def _renumber(tensors: Mapping[str, Tensor], places: Mapping[int, int]) -> dict[str, Tensor]:
    found = {name: _HOST.fullmatch(name) for name in tensors}
    return {
        f"env/host{places[int(match[1])]}.{match[2]}": tensors[name]
        for name, match in found.items()
        if match is not None and int(match[1]) in places
    }


# ------------------------------------------------------------------ plain data


def _join_state(records: Sequence[StateRecord], counts: Sequence[int]) -> dict[str, JsonValue]:
    carries = [_part(record, "carry") for record in records]
    envs = [_part(record, "env") for record in records]
    episodes: list[JsonValue] = []
    quarantined: list[JsonValue] = []
    told: list[JsonValue] = []
    env: dict[str, JsonValue] = {key: [] for key in _ENV_LISTS}
    start = 0
    for carry, part, count in zip(carries, envs, counts, strict=True):
        episodes += _items(carry, "episodes")
        told += _items(carry, "told") or [""] * count
        for entry in _items(carry, "quarantined"):
            quarantined.append(_move_row(entry, start + _row_of(entry)))
        for key in _ENV_LISTS:
            env[key] = [*_items(env, key), *_items(part, key)]
        for row in range(count):
            env[f"host{start + row}"] = part[f"host{row}"]
        start += count
    carry_state: dict[str, JsonValue] = {
        "num_valid": sum(int(str(carry["num_valid"])) for carry in carries),
        "episodes": episodes,
        "quarantined": quarantined,
        "told": told,
    }
    buffer = _part(records[0], "buffer") | {"num_envs": sum(counts)}
    return {**records[0].state, "buffer": buffer, "carry": carry_state, "env": env}


def _pick_state(record: StateRecord, rows: Sequence[int], *, is_first: bool) -> dict[str, JsonValue]:
    carry, env = _part(record, "carry"), _part(record, "env")
    place = {row: new for new, row in enumerate(rows)}
    told = _items(carry, "told") or [""] * count_rows(record)
    kept = [entry for entry in _items(carry, "quarantined") if _row_of(entry) in place]
    carry_state: dict[str, JsonValue] = {
        "num_valid": carry["num_valid"] if is_first else 0,
        "episodes": _items(carry, "episodes") if is_first else [],
        "quarantined": [_move_row(entry, place[_row_of(entry)]) for entry in kept],
        "told": [told[row] for row in rows],
    }
    env_state: dict[str, JsonValue] = {
        key: [_items(env, key)[row] for row in rows] for key in _ENV_LISTS if key in env
    }
    env_state |= {f"host{place[row]}": env[f"host{row}"] for row in rows if f"host{row}" in env}
    buffer = _part(record, "buffer") | {"num_envs": len(rows)}
    return {**record.state, "buffer": buffer, "carry": carry_state, "env": env_state}


def _part(record: StateRecord, name: str) -> dict[str, JsonValue]:
    part = record.state.get(name)
    if not isinstance(part, dict):
        raise ForeignCheckpointError(f"saved training: part {name!r} is missing")
    return part


def _items(part: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    items = part.get(key, [])
    if not isinstance(items, list):
        raise ForeignCheckpointError(f"saved training, field {key!r}: expected a list, got {items!r:.80}")
    return items


def _row_of(entry: JsonValue) -> int:
    """Return the place of a quarantined row: [name, row, step, reason]."""
    match entry:
        case [str(), int(row), int(), str()]:
            return row
    raise ForeignCheckpointError(f"saved rollout carry, quarantined row {entry!r}: malformed")


def _move_row(entry: JsonValue, row: int) -> JsonValue:
    assert isinstance(entry, list)
    return [entry[0], row, *entry[2:]]
