"""What the studies share: rows as JSON lines, appended once and never replaced, and the keys of a queue.

A study is a list of jobs with keys. A job whose key stands in the rows file is done, so that a stopped study
goes on where it was, and several processes share one file: each takes the seeds of its shard, and a row is
one write in append mode. Knows nothing about what a row means beyond `key_fields` and "protocol_hash".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path

from esper.leyline import JsonValue, canonical_hash
from esper.runtime.experiment import ExperimentConfig
from esper.tamiyo import GreedyConfig

Row = dict[str, JsonValue]

OF_LEARNERS = frozenset({"envs", "family", "network", "reward", "training"})
"""Sections of an experiment that only the training of policies reads: they change no host's life here."""

FIRST_TUNING_SEED = 1000
"""Seeds from here on are for choosing settings; their runs report validation only."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text such as "0-9" or "1000,1002-1004", each once, in the order given.

    Raises:
        ValueError: If a part is neither a whole number nor a range.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds |= dict.fromkeys(range(int(first), int(last or first) + 1))
    if not seeds:
        raise ValueError(f"seeds {text!r}: the range is empty, write it as LOW-HIGH")
    return tuple(seeds)


def parse_shard(text: str) -> tuple[int, int]:
    """Return (index, count) of a text "index/count", with 0 <= index < count.

    Raises:
        ValueError: If it is not of that form.
    """
    index, _, count = text.partition("/")
    if not 0 <= int(index) < int(count):
        raise ValueError(f"shard {text!r}: must be INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/2")
    return int(index), int(count)


def seeds_of_shard(seeds: Sequence[int], shard: tuple[int, int]) -> tuple[int, ...]:
    """Return every count-th seed: a seed's arms stay together, since some build on another's row."""
    index, count = shard
    return tuple(seeds[index::count])


def read_rows(path: Path) -> list[Row]:
    """Return a file's rows in order; none if there is no file.

    Raises:
        ValueError: If a line is not a JSON object.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not a JSON object ({error}); delete the line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add one row as one line in one write, so that two processes never mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, sort_keys=True, allow_nan=False) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def find_row(path: Path, key: Row, protocol_hash: str) -> Row | None:
    """Return the finished row of a key, or None.

    Raises:
        ValueError: If the file holds the key of another protocol: tables never mix two.
    """
    for row in read_rows(path):
        if any(row.get(name) != value for name, value in key.items()):
            continue
        if row.get("protocol_hash") != protocol_hash:
            raise ValueError(
                f"{path}: {key} was run under other settings (protocol {row.get('protocol_hash')}, now "
                f"{protocol_hash}); give those rows another folder with --results"
            )
        return row
    return None


def hash_config(config: ExperimentConfig) -> str:
    """Return 16 hex digits that stand for every setting that has a part in the run of one host."""
    plain: dict[str, JsonValue] = json.loads(json.dumps(asdict(config), default=_name_of))
    _leave_out_scores(plain)
    if config.greedy == GreedyConfig():  # only a greedy arm reads it; no other row changes by it
        del plain["greedy"]
    return canonical_hash({name: value for name, value in plain.items() if name not in OF_LEARNERS})[:16]


def _leave_out_scores(plain: dict[str, JsonValue]) -> None:
    """Drop the settings of scores where none are taken: they have no part in such a run."""
    host = plain["host"]
    assert isinstance(host, dict)
    measuring = host["measuring"]
    assert isinstance(measuring, dict)
    if not measuring["score_every"]:
        host["measuring"] = {name: value for name, value in measuring.items() if "score_" not in name}


def hash_protocol(config: ExperimentConfig) -> str:
    """Return the hash of what all rows of a table share: the experiment without seed, policy, rate."""
    optimizer = replace(config.host.optimizer, learning_rate=1.0)
    return hash_config(
        replace(config, seed=0, policy="never", host=replace(config.host, optimizer=optimizer))
    )


def _name_of(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"a configuration holds {type(value).__name__}, which has no plain form")
