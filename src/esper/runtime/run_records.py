"""Reading run directories: what a run is, where it stands, and the list of all runs. Never writes.

Files may come from elsewhere, so nothing in them is trusted: sizes are capped, types are checked, an unknown
format version is refused. Imports no torch: `esper runs ls` must be instant.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from esper.leyline import JsonValue, RunDirectoryError
from esper.runtime.run_lock import read_holder

RUN_FORMAT_VERSION = 1
"""Version of the files written here; another one is refused."""

RunState = Literal["running", "finished", "interrupted", "failed"]
STATES: tuple[RunState, ...] = ("running", "finished", "interrupted", "failed")

RESUMABLE_STATES = frozenset({"interrupted", "killed"})
"""States of `RunInfo` in which a run was stopped half way."""

CONFIG_NAME, META_NAME, STATUS_NAME, LOCK_NAME = "config.toml", "meta.json", "status.json", "lock"
CHECKPOINTS_NAME = "checkpoints"
RANKS_NAME = "ranks"
"""Folder of what the ranks of one training tell each other and their launcher."""
POLICY_FOLDER_NAME = "policy"
"""Folder of the policy that a training leaves at its end."""
TRASH_PREFIX = ".trash-"
"""How the names of folders begin that are being removed; no run has such a name."""
RUNS_ROOT = Path("runs")
"""Where runs go by default, below the working directory."""

_MAX_JSON_BYTES = 2**20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One run as a reader sees it, without opening it."""

    path: Path
    run_id: str = ""
    task: str = ""
    policy: str = ""
    seed: int = 0
    started_at: str = ""
    """ISO 8601, UTC."""
    state: str = ""
    """One of `STATES`, or "killed": it says running, but its process is gone."""
    exit_code: int | None = None
    attempt: int = 0
    """How often the run was resumed: 0 in the first start."""
    problem: str = ""
    """Why it cannot be read; then the fields above may be empty."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the record as JSON, the path as text."""
        return {
            "path": str(self.path),
            "run_id": self.run_id,
            "task": self.task,
            "policy": self.policy,
            "seed": self.seed,
            "started_at": self.started_at,
            "state": self.state,
            "exit_code": self.exit_code,
            "attempt": self.attempt,
            "problem": self.problem,
        }


def list_runs(root: Path) -> tuple[RunInfo, ...]:
    """Return every run directly below `root`, oldest first; none if there is no such directory.

    A run that cannot be read is listed with its problem.

    Raises:
        RunDirectoryError: If `root` exists and cannot be listed.

    Example:
        >>> [info.state for info in list_runs(runs)]
        ['finished']
    """
    try:
        found = root.iterdir() if root.exists() else ()
        folders = [
            path for path in found if not path.name.startswith(TRASH_PREFIX) and (path / META_NAME).is_file()
        ]
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{root} cannot be listed: {_reason(error)}") from error
    infos = []
    for path in folders:
        try:
            infos.append(read_run_info(path))
        except RunDirectoryError as error:
            infos.append(RunInfo(path=path, problem=str(error)))
    return tuple(sorted(infos, key=lambda info: (info.started_at, str(info.path))))


def read_run_info(path: Path) -> RunInfo:
    """Read one run without opening it.

    Raises:
        RunDirectoryError: If it is not a run of this format.

    Example:
        >>> info = read_run_info(run_dir)
        >>> info.task, info.state, info.exit_code
        ('synthetic', 'finished', 0)
    """
    meta, status = read_meta(path), read_status(path)
    state, exit_code = read_text_field(status, "state"), status.get("exit_code")
    if state not in STATES:
        raise RunDirectoryError(f"{path / STATUS_NAME}: unknown state {state[:40]!r}")
    if state == "running":
        holder = read_holder(path / LOCK_NAME)
        if holder is None or not holder.is_alive():
            state = "killed"
    return RunInfo(
        path=path,
        run_id=read_text_field(meta, "run_id"),
        task=read_text_field(meta, "task"),
        policy=read_text_field(meta, "policy"),
        seed=read_integer_field(meta, "seed"),
        started_at=read_text_field(meta, "started_at"),
        state=state,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        attempt=read_integer_field(status, "attempt"),
    )


def read_meta(path: Path) -> dict[str, JsonValue]:
    """Return meta.json of a run.

    Raises:
        RunDirectoryError: If it is not a run of this format.
    """
    if not (path / META_NAME).is_file():
        raise RunDirectoryError(
            f"{path} is not a run: it holds no {META_NAME}; `esper runs ls` lists the runs"
        )
    return _read_record(path / META_NAME)


def read_status(path: Path) -> dict[str, JsonValue]:
    """Return status.json of a run.

    Raises:
        RunDirectoryError: If it is missing, damaged, or of another format.
    """
    return _read_record(path / STATUS_NAME)


def read_run_settings(path: Path) -> dict[str, JsonValue]:
    """Return what a run was told: config.toml as dotted keys, versions and commit from meta.json.

    A key that is not set is left out.

    Raises:
        RunDirectoryError: If one of the files is missing or damaged.
    """
    meta = read_meta(path)
    facts = {key: meta[key] for key in ("versions", "git_commit") if meta.get(key) is not None}
    return read_config_settings(path) | dict(_flatten(facts, ""))


def read_config_settings(path: Path) -> dict[str, JsonValue]:
    """Return config.toml of a run as dotted keys; no link is followed, and no pipe waited for.

    Raises:
        RunDirectoryError: If it is missing or damaged.
    """
    try:
        opened = os.open(path / CONFIG_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise RunDirectoryError(f"{path / CONFIG_NAME} is damaged: over {_MAX_JSON_BYTES} bytes")
        config = tomllib.loads(data.decode())
    except OSError as error:
        raise RunDirectoryError(f"{path / CONFIG_NAME} cannot be read: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path / CONFIG_NAME} is damaged: it is not TOML") from error
    return dict(_flatten(config, ""))


def _flatten(table: Mapping[str, JsonValue], prefix: str) -> Iterator[tuple[str, JsonValue]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read_record(path: Path) -> dict[str, JsonValue]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        record = json.loads(data) if len(data) <= _MAX_JSON_BYTES else None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(record, dict):
        raise RunDirectoryError(
            f"{path} is damaged: expected a JSON object of at most {_MAX_JSON_BYTES} bytes"
        )
    version = record.get("format_version")
    if version != RUN_FORMAT_VERSION:
        raise RunDirectoryError(
            f"{path} has format {str(version)[:40]!r}, this version reads {RUN_FORMAT_VERSION}; "
            "use the esper version that wrote it (meta.json names it)"
        )
    return record


def read_text_field(record: Mapping[str, JsonValue], key: str) -> str:
    """Return a text field of a record.

    Raises:
        RunDirectoryError: If it is missing or of another type.
    """
    value = record.get(key)
    if not isinstance(value, str):
        raise RunDirectoryError(f"damaged record: {key!r} is missing or not text")
    return value


def read_integer_field(record: Mapping[str, JsonValue], key: str) -> int:
    """Return an integer field of a record.

    Raises:
        RunDirectoryError: If it is missing or of another type.
    """
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RunDirectoryError(f"damaged record: {key!r} is missing or not an integer")
    return value


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
