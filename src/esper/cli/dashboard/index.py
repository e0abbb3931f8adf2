"""Which runs there are: opaque ids on one side, folders below one root on the other.

A request names an id; nothing that it says is ever joined to a path. Links are not followed: neither a run
nor one of its files may lead out of the root.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from esper.cli.dashboard.digest import RunDigest
from esper.cli.dashboard.store import RunStore
from esper.leyline import EsperError, JsonValue, RunDirectoryError
from esper.runtime.run_records import META_NAME, STATUS_NAME, RunInfo, list_runs, read_run_info

MAX_OPEN_RUNS = 6
"""Runs whose records are held at the same time; the one that was looked at longest ago is let go."""
MAX_OPEN_WEIGHT = 300_000
"""Of all open runs together, see `RunStore.weight`; the one that is looked at may exceed it alone."""
MAX_LISTED_RUNS = 2_000
"""Newest ones; the rest is counted."""
LIST_SECONDS = 0.8
_READ_SECONDS = 1.0
"""Longest time that one look at the list spends on reading event files."""


@final
@dataclass(slots=True)
class Entry:
    """One run of the list."""

    id: str
    info: RunInfo
    digest: RunDigest
    problem: str = ""
    is_settled: bool = field(default=False)
    """Whether it had ended when its files were last read to their end."""

    @property
    def name(self) -> str:
        """Name of its folder; bytes that are no text are shown as U+FFFD."""
        return os.fsencode(self.info.path.name).decode("utf-8", "replace")


@final
class RunIndex:
    """All runs below a root, and the stores of those that somebody looks at."""

    def __init__(self, root: Path, max_open: int = MAX_OPEN_RUNS) -> None:
        """Look at nothing yet.

        Args:
            root: A folder of run directories, or one run directory; it may be missing.
            max_open: See `MAX_OPEN_RUNS`.
        """
        self.root = root.resolve()
        self.num_unlisted = 0
        self.lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._open: OrderedDict[str, RunStore] = OrderedDict()
        self._max_open = max_open
        self._next_look = float("-inf")

    def entries(self) -> Mapping[str, Entry]:
        """Return id -> run, oldest first, as the folder is now (looked at once a second at most).

        Raises:
            RunDirectoryError: If the root cannot be listed.
        """
        with self.lock:
            begun = time.monotonic()
            if begun >= self._next_look:
                self._look(begun)
                spent = time.monotonic() - begun
                self._next_look = begun + spent + max(LIST_SECONDS, 3 * spent)
            return self._entries

    def look_again(self) -> None:
        """Look at the folder the next time, however short the last look is ago."""
        self._next_look = float("-inf")

    def find(self, run_id: str) -> Entry | None:
        """Return the run of an id; None = there is none."""
        return self.entries().get(run_id)

    def open(self, entry: Entry) -> RunStore:
        """Return the store of a run; the same one as long as it is looked at."""
        with self.lock:
            store = self._open.pop(entry.id, None) or RunStore(entry.info.path)
            self._open[entry.id] = store
            while len(self._open) > 1 and self._is_too_much():
                self._open.popitem(last=False)
            return store

    def _is_too_much(self) -> bool:
        weight = sum(store.weight for store in self._open.values())
        return len(self._open) > self._max_open or weight > MAX_OPEN_WEIGHT

    def _look(self, begun: float) -> None:
        infos = self._infos()
        self.num_unlisted = max(0, len(infos) - MAX_LISTED_RUNS)
        entries = {}
        for info in infos[-MAX_LISTED_RUNS:]:
            run_id = run_id_of(info.path)
            entry = self._entries.get(run_id)
            if entry is None or entry.info.run_id != info.run_id:  # another run in its place
                entry = Entry(run_id, info, RunDigest(info.path))
                self._open.pop(run_id, None)
            entry.is_settled = entry.is_settled and entry.info == info
            entry.info, entry.problem = info, info.problem
            entries[run_id] = entry
        self._entries = entries
        for entry in reversed(list(entries.values())):
            left = _READ_SECONDS - (time.monotonic() - begun)
            if not entry.is_settled and left > 0:
                _read(entry, left)

    def _infos(self) -> list[RunInfo]:
        if (self.root / META_NAME).exists():
            return [_read_info(self.root)] if is_inside(self.root, self.root) else []
        return [info for info in list_runs(self.root) if is_inside(info.path, self.root)]


def _read_info(path: Path) -> RunInfo:
    try:
        return read_run_info(path)
    except RunDirectoryError as error:
        return RunInfo(path=path, problem=str(error))


def _read(entry: Entry, seconds: float) -> None:
    if entry.problem:
        return
    try:
        entry.digest.refresh(seconds)
    except (EsperError, OSError) as error:
        entry.problem = str(error)
        return
    entry.is_settled = entry.info.state != "running" and not entry.digest.is_behind


def run_id_of(path: Path) -> str:
    """Return the id of a run: the same for the same name, and no part of a path."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def is_inside(path: Path, root: Path) -> bool:
    """Whether a run directory and its records lie below the root and none of them is a link."""
    try:
        is_linked = any(each.is_symlink() for each in (path, path / META_NAME, path / STATUS_NAME))
        return not is_linked and path.resolve().is_relative_to(root)
    except OSError:
        return False


def describe_entry(entry: Entry, max_points: int = 60) -> dict[str, JsonValue]:
    """Return a run as a row of the overview."""
    info, digest = entry.info, entry.digest
    x, y = digest.curve(max_points)
    return {
        "id": entry.id,
        "name": entry.name,
        "task": info.task,
        "policy": info.policy,
        "seed": info.seed,
        "state": info.state or "unreadable",
        "started_at": info.started_at,
        "attempt": info.attempt,
        "is_training": digest.is_training,
        "metric_name": digest.metric_name,
        "metric": y[-1] if y else None,
        "best": max(y, default=None),
        "test": dict(digest.test_metrics),
        "epoch": x[-1] if x else 0,
        "horizon": digest.horizon,
        "num_params": digest.num_params,
        "num_envs": digest.num_envs,
        "curve": {"x": list(x), "y": list(y)},
        "is_behind": digest.is_behind and not entry.problem,
        "problem": entry.problem,
    }
