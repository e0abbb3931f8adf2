"""One process per run directory: an advisory file lock with the holder's name in it.

The kernel drops the lock when its process dies, so a stale one is recovered without guessing; the text in
the file (pid, boot id, start of the process) says who holds it, and lets a reader tell a dead holder from a
living one without touching the lock. POSIX only. Imports no torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, final

from esper.leyline import RunDirectoryError

_MAX_BYTES = 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """A process, named so that another one with the same pid is not taken for it.

    Example:
        LockHolder(pid=4711, boot_id="9c1e...", start_ticks=183020, host="node3")
    """

    pid: int
    boot_id: str
    """Changes with every boot of the machine; empty where the system does not tell."""
    start_ticks: int
    """Start of the process in clock ticks since boot; 0 where the system does not tell."""
    host: str

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        return cls(pid=pid, boot_id=_read_boot_id(), start_ticks=_read_start_ticks(pid), host=platform.node())

    def is_alive(self) -> bool:
        """Whether the process still runs; one of another machine counts as alive, because nobody can tell."""
        if self.boot_id != _read_boot_id():
            return self.host != platform.node()
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it lives and belongs to somebody else
        return self.start_ticks == _read_start_ticks(self.pid)


@final
class RunLock:
    """A held lock; `release` or the death of the process gives it back."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Args:
            path: The lock file; made if it is missing, and left behind empty.

        Raises:
            RunDirectoryError: If another holder has it, or the file cannot be opened or locked.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._acquire(path)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._is_held = True

    def release(self) -> None:
        """Empty the file and give the lock back; harmless when repeated."""
        if self._is_held:
            self._is_held = False
            try:
                os.ftruncate(self._descriptor, 0)
            finally:
                os.close(self._descriptor)

    def _acquire(self, path: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_holder(path)
            who = "another process" if holder is None else f"process {holder.pid} on {holder.host}"
            raise RunDirectoryError(
                f"{path.parent} is in use by {who}; wait for it, stop it, or give another --run-dir"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"{path}: this file system cannot lock files ({error.strerror}); "
                "give a --run-dir on a local disk"
            ) from error
        text = json.dumps(asdict(LockHolder.current()), ensure_ascii=True)
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
        except OSError as error:
            raise RunDirectoryError(f"{path}: cannot be written: {error.strerror}") from error


def read_holder(path: Path) -> LockHolder | None:
    """Return who is written in a lock file; None if nobody is, or the text is none of ours."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    pid, boot_id = record.get("pid"), record.get("boot_id")
    ticks, host = record.get("start_ticks"), record.get("host")
    if not (isinstance(pid, int) and 0 < pid < 2**31 and isinstance(ticks, int)):
        return None
    if not (isinstance(boot_id, str) and isinstance(host, str)):
        return None
    return LockHolder(pid=pid, boot_id=boot_id, start_ticks=ticks, host=host)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_start_ticks(pid: int) -> int:
    """Return field 22 of /proc/<pid>/stat; the name in field 2 may hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])
