"""The one door through which a checkpoint reaches the disk, so that a test can shut it at any call.

Every method announces itself to a hook before it acts; a hook that raises `OSError` or ends the process
shows what a full disk or a kill at that very call leaves behind. POSIX only: a directory is made durable by
`fsync`. Knows files, not checkpoints.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import final

TEMPORARY_PREFIX = ".tmp-"
"""Start of the name of everything that is not finished yet; whoever holds the run lock may remove it."""

_WRITE_BYTES = 4 * 2**20
"""Bytes per write call: one call per file would hide every failure in the middle of a file."""


def _allow(operation: str, path: Path) -> None:
    """Let every call through."""


@final
class FileOps:
    """Durable file operations: open, write, fsync, rename, replace, unlink, rmtree, mkdir.

    Example:
        >>> calls = []
        >>> ops = FileOps(before=lambda operation, path: calls.append(operation))
        >>> ops.write_file(folder / "a.txt", b"text")
        >>> calls
        ['open', 'write', 'fsync']
    """

    def __init__(self, *, before: Callable[[str, Path], None] = _allow) -> None:
        """Take the hook.

        Args:
            before: Called with (operation, path) before each call; what it raises, the call raises.
        """
        self._before = before

    def open(self, path: Path) -> io.FileIO:
        """Create a new file for unbuffered writing; the caller closes it.

        Raises:
            OSError: If it exists or cannot be created.
        """
        self._before("open", path)
        return io.FileIO(path, "xb")

    def write(self, file: io.FileIO, data: bytes) -> None:
        """Write all of `data`, in pieces of at most 4 MiB, each announced.

        Raises:
            OSError: If the disk is full or the file may not grow.
        """
        rest = memoryview(data)
        while rest:
            self._before("write", Path(str(file.name)))
            rest = rest[file.write(rest[:_WRITE_BYTES]) :]

    def fsync(self, file: io.FileIO) -> None:
        """Make what was written to `file` durable.

        Raises:
            OSError: If the device reports an error.
        """
        self._before("fsync", Path(str(file.name)))
        os.fsync(file.fileno())

    def fsync_directory(self, path: Path) -> None:
        """Make the names in a directory durable.

        Raises:
            OSError: If the device reports an error.
        """
        self._before("fsync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def mkdir(self, path: Path) -> None:
        """Create one directory.

        Raises:
            OSError: If it exists or cannot be created.
        """
        self._before("mkdir", path)
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, atomically.

        Raises:
            OSError: If it fails; then nothing was renamed. An empty directory at `target` is replaced.
        """
        self._before("rename", source)
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        """Put the file `source` in the place of the file `target`, atomically.

        Raises:
            OSError: If it fails; then `target` is as it was.
        """
        self._before("replace", source)
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove one file or symbolic link.

        Raises:
            OSError: If it fails.
        """
        self._before("unlink", path)
        path.unlink()

    def rmtree(self, path: Path) -> None:
        """Remove a directory with all that is in it; symbolic links inside are removed, not followed.

        Raises:
            OSError: If something could not be removed; the rest may be gone.
        """
        self._before("rmtree", path)
        shutil.rmtree(path)

    def write_file(self, path: Path, data: bytes) -> None:
        """Create a file with this content and make the content (not yet its name) durable.

        Raises:
            OSError: If it exists or cannot be written; a part of it may be there.
        """
        with self.open(path) as file:
            self.write(file, data)
            self.fsync(file)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Put a durable file with this content in the place of `path`: a reader sees the old or the new one.

        Raises:
            OSError: If it fails; `path` is then the old or the new file, whole, and a file that starts
                with `TEMPORARY_PREFIX` may be left beside it.
        """
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex}")
        self.write_file(temporary, data)
        self.replace(temporary, path)
        self.fsync_directory(path.parent)
