"""Reads one checkpoint directory: every byte is checked before it is parsed, and nothing in it is ever run.

```
read_checkpoint   MANIFEST.json: seal, format, kind > each file: size, SHA-256 > the same bytes: parse
verify_checkpoint the same without parsing, in constant memory
```
A file that its hash does not fit was damaged. A file that its hash fits, but that is not what we write, came
from somebody else: that is not repaired by taking an older checkpoint, so it is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NoReturn, final

from esper.leyline import CheckpointError, ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    STATE_FILE,
    TENSOR_FILE,
    FileEntry,
    Manifest,
    parse_manifest,
)
from esper.tolaria.checkpoint.record import LoadedCheckpoint, StateRecord
from esper.tolaria.checkpoint.strict_json import MAX_JSON_BYTES, parse_json
from esper.tolaria.checkpoint.tensor_file import MAX_HEADER_BYTES, parse_tensors

_FILES = frozenset({MANIFEST_FILE, TENSOR_FILE, STATE_FILE})
PICKLE_ADVICE = (
    "looks like a pickle, which runs code when it is read: load it yourself with torch and pass the module"
)
_HEAD_BYTES = 16


@final
class DamagedCheckpointError(CheckpointError):
    """Raised when one checkpoint cannot be used because a file of it is not as it was written."""

    def __init__(self, path: Path, file: str, reason: str) -> None:
        super().__init__(f"{path}/{file}: {reason}")
        self.file = file
        self.reason = reason


def read_checkpoint(path: Path, *, kind: str, max_tensor_bytes: int) -> LoadedCheckpoint:
    """Return the checkpoint in a directory.

    Args:
        path: The directory; its last part is the checkpoint's name.
        kind: The kind that is expected.
        max_tensor_bytes: Largest accepted amount of tensor data, bytes.

    Raises:
        DamagedCheckpointError: If a file is missing, truncated or changed.
        ForeignCheckpointError: If it was not written by us, or by a newer version, or is of another kind.
    """
    manifest = _read_manifest(path, kind)
    _check_limits(path, manifest, max_tensor_bytes)
    state_bytes = _read_verified(path, STATE_FILE, manifest.state)
    tensor_bytes = _read_verified(path, TENSOR_FILE, manifest.tensors)
    try:
        aliases, state = _parse_state(state_bytes)
    except ValueError as error:
        _refuse(path, STATE_FILE, error)
    try:
        tensors = parse_tensors(tensor_bytes, aliases, max_tensor_bytes=max_tensor_bytes)
    except ValueError as error:
        _refuse(path, TENSOR_FILE, error)
    return LoadedCheckpoint(
        record=StateRecord(tensors=tensors, state=state),
        name=path.name,
        topology_hash=manifest.topology_hash,
        manifest=manifest,
    )


def verify_checkpoint(path: Path, *, kind: str, max_tensor_bytes: int) -> Manifest:
    """Check a checkpoint's manifest, sizes and hashes, in constant memory; return the manifest.

    Args:
        path: The directory.
        kind: The kind that is expected.
        max_tensor_bytes: Largest accepted amount of tensor data, bytes.

    Raises:
        DamagedCheckpointError: If a file is missing, truncated or changed.
        ForeignCheckpointError: If it is whole, but not ours.
    """
    manifest = _read_manifest(path, kind)
    _check_limits(path, manifest, max_tensor_bytes)
    for name, entry in ((STATE_FILE, manifest.state), (TENSOR_FILE, manifest.tensors)):
        with _opened(path, name) as (file, num_bytes):
            _check_size(path, name, entry, num_bytes)
            _check_hash(path, name, entry, hashlib.file_digest(file, "sha256").hexdigest())
    return manifest


def is_pickle(path: Path) -> bool:
    """Whether a regular, readable file begins like a pickle or like the zip that torch makes of one."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            return _looks_like_pickle(file.read(_HEAD_BYTES), path.stat().st_size)
    except OSError:
        return False  # What cannot be read is not read; the question only words a refusal.


def _looks_like_pickle(head: bytes, num_bytes: int) -> bool:
    # Our files have "{" as their first or ninth byte, and the safetensors header length that the first eight
    # bytes spell fits the file. One flipped bit breaks only one of these, and so stays damage.
    if len(head) <= 8 or head[8:9] == b"{" or head[:1] == b"{":
        return False
    is_binary_pickle = (
        head[0] == 0x80 and 2 <= head[1] <= 5 and int.from_bytes(head[:8], "little") > num_bytes
    )
    return is_binary_pickle or head.startswith(b"PK\x03\x04")


def _read_manifest(path: Path, kind: str) -> Manifest:
    _check_directory(path)
    data = _read_file(path, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    try:
        return parse_manifest(data, kind=kind)
    except ForeignCheckpointError as error:
        raise ForeignCheckpointError(f"{path / MANIFEST_FILE} {error}") from error
    except ValueError as error:
        raise DamagedCheckpointError(path, MANIFEST_FILE, str(error)) from error


def _check_directory(path: Path) -> None:
    try:
        is_directory = path.is_dir() and not path.is_symlink()
        others = [entry for entry in path.iterdir() if entry.name not in _FILES] if is_directory else []
    except OSError as error:
        raise DamagedCheckpointError(path, ".", f"cannot be listed: {error.strerror}") from error
    if not is_directory:
        hint = f"; it {PICKLE_ADVICE}" if is_pickle(path) else ""
        raise ForeignCheckpointError(f"{path} is not a directory with {', '.join(sorted(_FILES))}{hint}")
    foreign = sorted(entry for entry in others if is_pickle(entry))
    if foreign:
        raise ForeignCheckpointError(f"{foreign[0]} is no part of a checkpoint and {PICKLE_ADVICE}")


def _check_limits(path: Path, manifest: Manifest, max_tensor_bytes: int) -> None:
    limits = (
        (STATE_FILE, manifest.state, MAX_JSON_BYTES),
        (TENSOR_FILE, manifest.tensors, max_tensor_bytes + MAX_HEADER_BYTES + 8),
    )
    for name, entry, limit in limits:
        if entry.num_bytes > limit:
            raise ForeignCheckpointError(f"{path / name}: {entry.num_bytes} bytes, at most {limit} are read")


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[FileIO, int]]:
    """Open a regular file of a checkpoint, no link followed; yield it and its size in bytes."""
    try:
        # Without O_NONBLOCK, opening a pipe that somebody put there would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with FileIO(os.open(path / name, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DamagedCheckpointError(path, name, "is not a regular file")
            if _looks_like_pickle(os.pread(file.fileno(), _HEAD_BYTES, 0), info.st_size):
                raise ForeignCheckpointError(f"{path / name} {PICKLE_ADVICE}")
            yield file, info.st_size
    except FileNotFoundError:
        raise DamagedCheckpointError(path, name, "is missing") from None
    except OSError as error:
        raise DamagedCheckpointError(path, name, f"cannot be read: {error.strerror}") from error
    except MemoryError:
        raise DamagedCheckpointError(path, name, "does not fit into memory") from None


def _read_file(path: Path, name: str, limit: int) -> bytes:
    with _opened(path, name) as (file, num_bytes):
        if num_bytes > limit:
            raise DamagedCheckpointError(path, name, f"{num_bytes} bytes, at most {limit} are read")
        return _read_all(file, num_bytes)


def _read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    with _opened(path, name) as (file, num_bytes):
        _check_size(path, name, entry, num_bytes)
        data = _read_all(file, num_bytes)
    _check_hash(path, name, entry, hashlib.sha256(data).hexdigest())
    return data


def _read_all(file: FileIO, num_bytes: int) -> bytes:
    """Read up to `num_bytes`; a file that shrinks meanwhile gives fewer, and its hash then differs."""
    data = bytearray(num_bytes)
    view, position = memoryview(data), 0
    while position < num_bytes:
        count = file.readinto(view[position:])
        if not count:
            break
        position += count
    return bytes(view[:position])


def _check_size(path: Path, name: str, entry: FileEntry, num_bytes: int) -> None:
    if num_bytes != entry.num_bytes:
        raise DamagedCheckpointError(
            path, name, f"has {num_bytes} bytes, the manifest says {entry.num_bytes}"
        )


def _check_hash(path: Path, name: str, entry: FileEntry, digest: str) -> None:
    if digest != entry.sha256:
        raise DamagedCheckpointError(path, name, f"has SHA-256 {digest}, the manifest says {entry.sha256}")


def _parse_state(data: bytes) -> tuple[dict[str, str], dict[str, JsonValue]]:
    value = parse_json(data)
    if not isinstance(value, Mapping) or value.keys() != {"aliases", "state"}:
        raise ValueError("must be an object with the keys 'aliases' and 'state'")
    aliases, state = value["aliases"], value["state"]
    if not isinstance(aliases, Mapping) or not isinstance(state, dict):
        raise ValueError("'aliases' and 'state' must be objects")
    owners = {alias: owner for alias, owner in aliases.items() if isinstance(owner, str)}
    if len(owners) != len(aliases):
        raise ValueError("'aliases' must map tensor names to tensor names")
    return owners, state


def _refuse(path: Path, name: str, error: ValueError) -> NoReturn:
    raise ForeignCheckpointError(
        f"{path / name} has the size and hash of its manifest, but is not what esper-lite writes: {error}"
    ) from error
