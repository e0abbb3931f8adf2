"""The directory of one run: who holds it, what it was started with, how it ended.

```
RUN/  lock          JSON of the process that holds it; empty when nobody does
      config.toml   the whole configuration, each value with its origin
      meta.json     what never changes: ids, versions, seed, command line, start
      status.json   running, finished, interrupted or failed; replaced atomically
```
Written before the first step; event files and checkpoints lie beside them. Knows no configuration, only its
text. Imports no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, final

from esper.leyline import EsperError, ExitCode, InterruptedRunError, JsonValue, RunDirectoryError
from esper.runtime.run_lock import RunLock
from esper.runtime.run_records import (
    CHECKPOINTS_NAME,
    CONFIG_NAME,
    LOCK_NAME,
    META_NAME,
    RANKS_NAME,
    RUN_FORMAT_VERSION,
    STATUS_NAME,
    RunState,
    read_integer_field,
    read_meta,
    read_status,
    read_text_field,
)

_CRASH_CODE = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")
_MAX_POLICY_CHARACTERS = 40
_TEMPORARY_PREFIX = ".tmp-"
_OWN_NAMES = frozenset({CONFIG_NAME, STATUS_NAME, LOCK_NAME, RANKS_NAME})
"""What a start that died before `meta.json` leaves behind, and what a launcher puts there before its ranks
start; such a directory may be started again."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrigin:
    """What a run was started with.

    Example:
        RunOrigin(task="digits", policy="heuristic", seed=0, argv=("train", "heuristic"))
    """

    task: str
    policy: str
    seed: int
    argv: tuple[str, ...] = ()
    """Command line after the program's name."""


@final
class RunFolder:
    """A run directory held by this process; as a context it records how the run ended and lets go.

    Example:
        with RunFolder.create(path, config_text=text, origin=origin) as folder:
            train(folder.path)
    """

    def __init__(self, path: Path, lock: RunLock, *, run_id: str, attempt: int) -> None:
        """Use `create` or `open` instead."""
        self.path = path
        self.run_id = run_id
        self.attempt = attempt
        """How often the run was resumed before: 0 in the first start."""
        self.state: RunState = "running"
        self._lock = lock

    @classmethod
    def create(cls, path: Path, *, config_text: str, origin: RunOrigin) -> Self:
        """Make a new run directory, lock it, and write everything known before the first step.

        Args:
            path: A directory that does not exist or is empty.
            config_text: Content of config.toml.
            origin: What the run was started with.

        Raises:
            RunDirectoryError: If it holds something already, is in use, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            refuse_occupied(path)
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"run directory {path} cannot be made: {_reason(error)}") from error
        lock = RunLock(path / LOCK_NAME)
        folder = cls(path, lock, run_id=uuid.uuid4().hex, attempt=0)
        try:
            refuse_occupied(path)  # again, now that nobody else can start here
            replace_text(path / CONFIG_NAME, config_text)
            folder.set_status("running")
            replace_text(path / META_NAME, _to_text(_describe_start(folder.run_id, origin)))
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise RunDirectoryError(
                    f"run directory {path} cannot be written: {_reason(error)}"
                ) from error
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Lock an existing run directory for another attempt.

        Raises:
            RunDirectoryError: If it is not a run of this format, or is in use, or cannot be written.
        """
        read_meta(path)
        lock = RunLock(path / LOCK_NAME)
        try:
            meta, status = read_meta(path), read_status(path)
            attempt = read_integer_field(status, "attempt") + 1
            folder = cls(path, lock, run_id=read_text_field(meta, "run_id"), attempt=attempt)
            folder.set_status("running")
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise RunDirectoryError(
                    f"run directory {path} cannot be written: {_reason(error)}"
                ) from error
            raise
        return folder

    @property
    def config_path(self) -> Path:
        """The file with the whole configuration."""
        return self.path / CONFIG_NAME

    @property
    def checkpoints_path(self) -> Path:
        """The directory of the checkpoints; not made here."""
        return self.path / CHECKPOINTS_NAME

    def set_status(self, state: RunState, *, exit_code: int | None = None, reason: str = "") -> None:
        """Replace status.json; a reader sees the old or the new one, never a part.

        Args:
            state: Where the run stands.
            exit_code: What its process returns; None while it runs.
            reason: One short sentence.

        Raises:
            OSError: If it cannot be written.
        """
        status: dict[str, JsonValue] = {
            "format_version": RUN_FORMAT_VERSION,
            "state": state,
            "exit_code": exit_code,
            "reason": reason,
            "attempt": self.attempt,
            "updated_at": _now(),
        }
        replace_text(self.path / STATUS_NAME, _to_text(status))
        self.state = state

    def close(self) -> None:
        """Let go of the directory; harmless when repeated."""
        self._lock.release()

    def __enter__(self) -> Self:
        """Return the folder, already held."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the run ended, unless `set_status` has done so, and let go."""
        try:
            if self.state == "running":
                state, exit_code = describe_end(error)
                reason = "" if error is None else f"{type(error).__name__}: {error}"
                self.set_status(state, exit_code=exit_code, reason=" ".join(reason.split())[:500])
        finally:
            self.close()


def describe_end(error: BaseException | None) -> tuple[RunState, int]:
    """Return the state and exit code of a run that ended with this error, or with none."""
    if error is None:
        return "finished", int(ExitCode.OK)
    if isinstance(error, InterruptedRunError):
        return "interrupted", int(error.signal_exit_code)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", int(ExitCode.SIGINT)
    if isinstance(error, EsperError):
        return "failed", int(error.exit_code)
    return "failed", _CRASH_CODE


def default_run_path(root: Path, origin: RunOrigin, now: datetime) -> Path:
    """Return `root/<task>-<policy>-<seed>-<yyyymmdd-hhmmss>`, numbered if that exists.

    A policy that is a folder or a class gives the end of its text, without what no file name should hold.

    Args:
        root: Usually `runs`.
        origin: What the run is started with.
        now: Local time.
    """
    policy = _UNSAFE.sub("-", origin.policy)[-_MAX_POLICY_CHARACTERS:].strip("-.")
    name = f"{origin.task}-{policy}-{origin.seed}-{now:%Y%m%d-%H%M%S}"
    path, number = root / name, 1
    while path.exists():
        number += 1
        path = root / f"{name}-{number}"
    return path


def package_versions() -> dict[str, str]:
    """Return the versions of esper, torch, numpy and python, read without importing them."""
    versions = {}
    for name in ("esper-lite", "torch", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {**versions, "python": platform.python_version()}


def read_git_commit(folder: Path) -> str | None:
    """Return the commit of the work tree that holds `folder`, "+dirty" if files differ; None without git."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("+dirty" if _ask_git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def refuse_occupied(path: Path) -> None:
    """Refuse an existing directory in which no run can begin.

    Raises:
        RunDirectoryError: If it holds a run, or files that no start of a run leaves.
        OSError: If it cannot be listed.
    """
    names = {item.name for item in path.iterdir() if not item.name.startswith(_TEMPORARY_PREFIX)}
    if META_NAME in names:
        raise RunDirectoryError(
            f"{path} holds a run already; continue it with --resume, or give another --run-dir"
        )
    if not names <= _OWN_NAMES:
        raise RunDirectoryError(
            f"{path} holds other files ({sorted(names - _OWN_NAMES)[0]!r}, ...); give a new --run-dir"
        )


def replace_text(path: Path, text: str) -> None:
    """Put a durable UTF-8 file in the place of `path`: a reader sees the old or the new one.

    Raises:
        OSError: If it cannot be written; `path` is then as it was.
    """
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _describe_start(run_id: str, origin: RunOrigin) -> dict[str, JsonValue]:
    versions = package_versions()
    return {
        "format_version": RUN_FORMAT_VERSION,
        "run_id": run_id,
        "task": origin.task,
        "policy": origin.policy,
        "seed": origin.seed,
        "argv": list(origin.argv),
        "started_at": _now(),
        "git_commit": read_git_commit(Path.cwd()),
        "versions": versions,
    }


def _to_text(record: Mapping[str, JsonValue]) -> str:
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=True) + "\n"


def _ask_git(folder: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else ""


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
