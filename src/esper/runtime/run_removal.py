"""Removing runs, or their checkpoints: only what is surely a run, that nobody uses, and never half of it.

```
check (a run of ours, no link, no run inside, not in use) > lock > rename to .trash-<id> > delete
```
A kill in between leaves a folder that no command takes for a run; the next removal there finishes it. No link
is followed. Imports no torch.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

from esper.leyline import RunDirectoryError
from esper.runtime.run_lock import RunLock, read_holder
from esper.runtime.run_records import (
    CHECKPOINTS_NAME,
    LOCK_NAME,
    META_NAME,
    RANKS_NAME,
    TRASH_PREFIX,
    RunInfo,
    list_runs,
    read_meta,
    read_run_info,
    read_status,
)

_TRASH = re.compile(re.escape(TRASH_PREFIX) + "[0-9a-f]{32}")
REMOVABLE_STATES = ("finished", "failed", "interrupted", "killed")
"""States in which nobody uses a run."""
DEFAULT_STATES = ("finished", "failed")
"""States that a choice of runs takes if it names none: the others can be resumed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One folder that would go.

    Example:
        Removal(run=Path("runs/a"), path=Path("runs/a/checkpoints"), state="finished", num_bytes=120_000)
    """

    run: Path
    path: Path
    """The run itself, or the folder of its checkpoints."""
    state: str
    num_bytes: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoice:
    """Which runs of a folder go."""

    states: tuple[str, ...] = DEFAULT_STATES
    min_age_days: float = 0.0
    """Days since the run last said where it stands."""
    num_kept: int = 0
    """Newest runs of the folder that stay whatever else is asked for."""
    has_checkpoints_only: bool = False
    """Whether only checkpoints go, and only those of finished runs."""


def check_removable(path: Path) -> Removal:
    """Return what removing one run would free.

    Raises:
        RunDirectoryError: If it is no run of this format, is a link, is in use, or holds another run.
    """
    read_meta(path)
    _refuse_links(path)
    state = _read_state(path)
    if state == "running":
        raise RunDirectoryError(f"{path} is running: stop it before it is removed")
    for inner in _files(path):
        if (
            inner.name == META_NAME
            and inner.parent != path
            and RANKS_NAME not in inner.relative_to(path).parts
        ):
            raise RunDirectoryError(
                f"{path} holds another run, {inner.parent}: remove or move that one first"
            )
    return Removal(run=path, path=path, state=state, num_bytes=_count_bytes(path))


def choose_runs(root: Path, choice: RunChoice, now: datetime) -> tuple[Removal, ...]:
    """Return what of a folder of runs would go, oldest first; what cannot be read or removed stays.

    Args:
        root: The folder; only runs directly in it are looked at.
        choice: Which runs.
        now: With a time zone.

    Raises:
        RunDirectoryError: If the folder cannot be listed.
    """
    found = sorted((_last_change(info), str(info.path), info) for info in list_runs(root) if not info.problem)
    kept = found[len(found) - choice.num_kept :] if choice.num_kept else []
    limit = now - timedelta(days=choice.min_age_days)
    states = ("finished",) if choice.has_checkpoints_only else choice.states
    removals = []
    for changed, _, info in found[: len(found) - len(kept)]:
        if info.state in states and changed <= limit:
            try:
                whole = check_removable(info.path)
            except RunDirectoryError:
                continue
            removal = _checkpoints_of(whole) if choice.has_checkpoints_only else whole
            if removal is not None:
                removals.append(removal)
    return tuple(removals)


def remove(removal: Removal) -> None:
    """Remove one run or its checkpoints, as long as nobody uses the run.

    Raises:
        RunDirectoryError: If it is in use by now, is something else by now, or cannot be removed.
    """
    check_removable(removal.run)
    with ExitStack() as stack:
        for name in (Path(LOCK_NAME), Path(RANKS_NAME, LOCK_NAME)):
            if (removal.run / name).exists():  # the second belongs to a launcher of several processes
                stack.callback(RunLock(removal.run / name).release)
        trash = removal.path.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex}")
        try:
            removal.path.rename(trash)
            shutil.rmtree(trash)
            empty_trash(removal.path.parent)
        except OSError as error:
            raise RunDirectoryError(f"{removal.path} cannot be removed whole: {error}") from error


def empty_trash(folder: Path) -> int:
    """Delete what a removal that was killed left in a folder; return how many were deleted."""
    num_deleted = 0
    for path in folder.glob(f"{TRASH_PREFIX}*"):
        if _TRASH.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            num_deleted += not path.exists()
    return num_deleted


def _checkpoints_of(whole: Removal) -> Removal | None:
    path = whole.run / CHECKPOINTS_NAME
    if path.is_symlink() or not path.is_dir():
        return None
    return Removal(run=whole.run, path=path, state=whole.state, num_bytes=_count_bytes(path))


def _read_state(path: Path) -> str:
    """Return where a run stands; the lock decides over one that cannot tell."""
    try:
        return read_run_info(path).state
    except RunDirectoryError:
        holder = read_holder(path / LOCK_NAME)
        return "running" if holder is not None and holder.is_alive() else "unreadable"


def _refuse_links(path: Path) -> None:
    for one in (path, path / META_NAME):
        if one.is_symlink():
            raise RunDirectoryError(f"{one} is a link; name the run itself")


def _last_change(info: RunInfo) -> datetime:
    """Return when a run last said where it stands; one that cannot tell is as new as can be."""
    try:
        told = datetime.fromisoformat(str(read_status(info.path).get("updated_at")))
    except (RunDirectoryError, ValueError):
        return datetime.max.replace(tzinfo=UTC)
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


def _files(path: Path) -> Iterator[Path]:
    for root, _, names in os.walk(path):  # no link to a folder is followed
        for name in names:
            yield Path(root) / name


def _count_bytes(path: Path) -> int:
    total = 0
    for file in _files(path):
        try:
            total += file.lstat().st_size
        except OSError:  # gone meanwhile
            continue
    return total


def total_bytes(removals: Sequence[Removal]) -> int:
    """Return what all of them free, in bytes."""
    return sum(removal.num_bytes for removal in removals)
