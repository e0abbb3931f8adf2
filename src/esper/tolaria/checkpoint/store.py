"""Saves and finds the checkpoints of one run in one directory; a crash at any moment leaves a valid one.

```
save   encode > .tmp-<name>-<id>/: write and fsync each file, fsync it > rename to <name>/ > fsync root
       > replace LATEST > purge
load   newest to oldest by name: read, check, or pass over and remember why
```
`LATEST` is for people and scripts: `load` never reads it, so that a stale one misleads nobody. Only one
process may use a directory at a time; the lock belongs to whoever starts the run.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import final

import torch

from esper.leyline import CheckpointError, ConfigError, ForeignCheckpointError, UnknownNameError
from esper.tolaria.checkpoint.file_ops import TEMPORARY_PREFIX, FileOps
from esper.tolaria.checkpoint.manifest import (
    MANIFEST_FILE,
    STATE_FILE,
    TENSOR_FILE,
    FileEntry,
    Manifest,
    encode_manifest,
)
from esper.tolaria.checkpoint.reader import (
    PICKLE_ADVICE,
    DamagedCheckpointError,
    is_pickle,
    read_checkpoint,
    verify_checkpoint,
)
from esper.tolaria.checkpoint.record import LoadedCheckpoint, Rejection, SavedCheckpoint, StateRecord
from esper.tolaria.checkpoint.strict_json import encode_json
from esper.tolaria.checkpoint.tensor_file import encode_tensors

LATEST_FILE = "LATEST"
MAX_TENSOR_BYTES = 16 * 2**30

_TRASH_PREFIX = ".trash-"
_NAME = re.compile(r"e(\d{4,9})-b(\d{5,9})(?:-r(\d{1,9}))?")
_KIND = re.compile(r"[a-z0-9_.-]{1,64}")
_TOPOLOGY_HASH = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class _Status(Enum):
    VALID = "valid"
    DAMAGED = "damaged"
    FOREIGN = "foreign"


def checkpoint_name(epoch: int, batch: int, num_rollbacks: int = 0) -> str:
    """Return the name of the checkpoint at a place in training, for example "e0012-b00034".

    After a rollback a run passes the same places again, with other numbers: "e0012-b00034-r1".

    Args:
        epoch: Completed epochs, in [0, 10**9).
        batch: Completed batches of the running epoch, in [0, 10**9).
        num_rollbacks: Rollbacks so far, in [0, 10**9).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> checkpoint_name(12, 34), checkpoint_name(12, 34, num_rollbacks=1)
        ('e0012-b00034', 'e0012-b00034-r1')
    """
    if not all(0 <= number < 10**9 for number in (epoch, batch, num_rollbacks)):
        raise ValueError(f"{epoch=}, {batch=}, {num_rollbacks=}: must be in [0, 10**9)")
    return f"e{epoch:04d}-b{batch:05d}" + (f"-r{num_rollbacks}" if num_rollbacks else "")


def checkpoint_place(name: str) -> tuple[int, int, int] | None:
    """Return (rollbacks, epoch, batch), larger for newer ones, of a name as `checkpoint_name` writes it.

    Example:
        >>> checkpoint_place("e0012-b00034"), checkpoint_place("notes")
        ((0, 12, 34), None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    epoch, batch, num_rollbacks = int(match[1]), int(match[2]), int(match[3] or 0)
    return (num_rollbacks, epoch, batch) if name == checkpoint_name(epoch, batch, num_rollbacks) else None


@final
class CheckpointStore:
    """The checkpoints of one run.

    Example:
        >>> store = CheckpointStore(run / "checkpoints", kind="run", esper_version="0.1.0")
        >>> store.save(checkpoint_name(12, 34), record, topology_hash=digest).name
        'e0012-b00034'
        >>> store.load().record.state["epoch"]
        12
    """

    def __init__(
        self,
        root: Path,
        *,
        kind: str,
        esper_version: str,
        keep: int = 2,
        file_ops: FileOps | None = None,
        max_tensor_bytes: int = MAX_TENSOR_BYTES,
    ) -> None:
        """Remember the settings; nothing is read or written yet.

        Args:
            root: The directory, created by the first save; its parent must exist.
            kind: What is saved, `[a-z0-9_.-]{1,64}`; checkpoints of another kind are refused.
            esper_version: Version of this program, written into every manifest.
            keep: Valid checkpoints kept, >= 2: one to fall back on when the newest is damaged.
            file_ops: Through which everything is written; the default lets every call through.
            max_tensor_bytes: Most tensor data that is saved or loaded, bytes, >= 1; 16 GiB keeps a hostile
                file from taking all memory and is far above the hosts here.

        Raises:
            ConfigError: If a setting is out of its range.
        """
        if not _KIND.fullmatch(kind):
            raise ConfigError(f"checkpoint kind={kind!r}: must match {_KIND.pattern}")
        if esper_version in ("", "unknown"):
            raise ConfigError(f"esper_version={esper_version!r}: give the version of this program")
        if keep < 2:
            raise ConfigError(f"keep={keep}: must be >= 2, one of them to fall back on")
        if max_tensor_bytes < 1:
            raise ConfigError(f"max_tensor_bytes={max_tensor_bytes}: must be >= 1")
        self._root = root
        self._kind = kind
        self._esper_version = esper_version
        self._keep = keep
        self._ops = file_ops if file_ops is not None else FileOps()
        self._max_tensor_bytes = max_tensor_bytes
        self._known: dict[str, _Status] = {}
        self._housekeeping_errors: list[str] = []

    @property
    def root(self) -> Path:
        """The directory of the checkpoints."""
        return self._root

    @property
    def housekeeping_errors(self) -> tuple[str, ...]:
        """What failed without harm so far: replacing LATEST, removing old or temporary directories."""
        return tuple(self._housekeeping_errors)

    def names(self) -> tuple[str, ...]:
        """Return what is named like a checkpoint, newest first by (rollbacks, epoch, batch); none is opened.

        Raises:
            CheckpointError: If the directory cannot be listed.
        """
        places = [
            (place, entry.name)
            for entry in self._entries()
            if (place := checkpoint_place(entry.name)) is not None
        ]
        return tuple(name for _, name in sorted(places, reverse=True))

    def save(self, name: str, record: StateRecord, *, topology_hash: str) -> SavedCheckpoint:
        """Make a record durable under a name, then remove checkpoints that are no longer needed.

        Args:
            name: From `checkpoint_name`. A damaged checkpoint of this name is set aside as `bad-<name>-<k>`.
            record: Not changed, and not kept.
            topology_hash: Of the topology that the tensors belong to, `[A-Za-z0-9_.:-]{1,128}`.

        Returns:
            Where it is and how large.

        Raises:
            CheckpointError: If the record cannot be written as it is, the name is taken, or the disk fails;
                the checkpoints that were there are as they were.
        """
        if checkpoint_place(name) is None:
            raise CheckpointError(f"cannot save checkpoint {name!r}: expected a name like 'e0012-b00034'")
        files = self._encode(name, record, topology_hash)
        num_bytes = sum(len(data) for data in files.values())
        final_path = self._root / name
        try:
            self._free_name(name)
            self._write(name, files)
        except OSError as error:
            raise CheckpointError(
                f"cannot save checkpoint {final_path}: {error}; it needs {num_bytes} bytes; earlier "
                f"checkpoints are kept; free space or permissions and save again"
            ) from error
        self._known[name] = _Status.VALID
        latest = self._root / LATEST_FILE
        self._tolerate("replacing LATEST", partial(self._ops.replace_file, latest, f"{name}\n".encode()))
        self._tolerate("purging", partial(self._purge, name))
        return SavedCheckpoint(name=name, path=final_path, num_bytes=num_bytes)

    def load(self, name: str | None = None) -> LoadedCheckpoint:
        """Return the newest valid checkpoint, or the one of this name.

        Args:
            name: None to pass over damaged ones. With a name there is no fallback.

        Returns:
            The record and, in `rejected`, what was passed over.

        Raises:
            CheckpointError: If none is valid; names each file and the reason.
            ForeignCheckpointError: If the first one that is not damaged is not ours, or of another kind or
                format. An older one is then taken only when it is named.
            UnknownNameError: If there is no checkpoint of this name.
        """
        names = self.names()
        if name is not None:
            if name not in names:
                raise UnknownNameError("checkpoint", name, names)
            names = (name,)
        rejected: list[Rejection] = []
        for candidate in names:
            try:
                loaded = read_checkpoint(
                    self._root / candidate, kind=self._kind, max_tensor_bytes=self._max_tensor_bytes
                )
            except DamagedCheckpointError as error:
                self._known[candidate] = _Status.DAMAGED
                rejected.append(Rejection(name=candidate, file=error.file, reason=error.reason))
                continue
            except ForeignCheckpointError as error:
                raise ForeignCheckpointError(f"{error}{_offer_older(names, candidate)}") from error
            self._known[candidate] = _Status.VALID
            return replace(loaded, rejected=tuple(rejected))
        raise self._nothing_left(rejected)

    def clean(self) -> int:
        """Remove what interrupted saves and purges left; call it under the run lock, before the first save.

        Returns:
            How many entries were removed; failures are in `housekeeping_errors`.

        Raises:
            CheckpointError: If the directory cannot be listed.
        """
        return self._sweep((TEMPORARY_PREFIX, _TRASH_PREFIX))

    def _encode(self, name: str, record: StateRecord, topology_hash: str) -> dict[str, bytes]:
        """Return the files, manifest last."""
        if not _TOPOLOGY_HASH.fullmatch(topology_hash):
            raise CheckpointError(f"topology_hash={topology_hash!r}: must match {_TOPOLOGY_HASH.pattern}")
        try:
            tensors, aliases = encode_tensors(record.tensors, max_tensor_bytes=self._max_tensor_bytes)
            state = encode_json({"aliases": aliases, "state": record.state}, where="record")
        except ValueError as error:
            raise CheckpointError(f"cannot save checkpoint {name!r} in {self._root}: {error}") from error
        manifest = Manifest(
            kind=self._kind,
            esper_version=self._esper_version,
            torch_version=str(torch.__version__),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            topology_hash=topology_hash,
            tensors=_build_entry(tensors),
            state=_build_entry(state),
        )
        return {TENSOR_FILE: tensors, STATE_FILE: state, MANIFEST_FILE: encode_manifest(manifest)}

    def _free_name(self, name: str) -> None:
        """Set a damaged checkpoint of this name aside; refuse to replace any other."""
        path = self._root / name
        if not path.exists() and not path.is_symlink():
            return
        self._known.pop(name, None)
        if self._status(name) is not _Status.DAMAGED:
            raise CheckpointError(
                f"cannot save checkpoint {path}: the name is taken; a checkpoint is never replaced"
            )
        count = 0
        while (aside := self._root / f"bad-{name}-{count}").exists():
            count += 1
        self._ops.rename(path, aside)
        self._known.pop(name)

    def _write(self, name: str, files: dict[str, bytes]) -> None:
        if not self._root.is_dir():
            self._ops.mkdir(self._root)
            self._ops.fsync_directory(self._root.parent)
        temporary = self._root / f"{TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex}"
        try:
            self._ops.mkdir(temporary)
            for file_name, data in files.items():
                self._ops.write_file(temporary / file_name, data)
            self._ops.fsync_directory(temporary)
            self._ops.rename(temporary, self._root / name)
        except OSError:
            if temporary.is_dir():
                self._tolerate(f"removing {temporary}", partial(self._ops.rmtree, temporary))
            raise
        self._ops.fsync_directory(self._root)

    def _status(self, name: str) -> _Status:
        """Return what is known of a checkpoint; what this store neither wrote nor read is checked once."""
        known = self._known.get(name)
        if known is None:
            try:
                verify_checkpoint(self._root / name, kind=self._kind, max_tensor_bytes=self._max_tensor_bytes)
                known = _Status.VALID
            except DamagedCheckpointError:
                known = _Status.DAMAGED
            except ForeignCheckpointError:
                known = _Status.FOREIGN
            self._known[name] = known
        return known

    def _purge(self, saved: str) -> None:
        """Remove what is older than the newest `keep` valid ones; never the one just saved, nor foreign."""
        num_valid = 0
        for name in self.names():
            status = self._status(name)
            if num_valid < self._keep or name == saved:
                num_valid += status is _Status.VALID
            elif status is not _Status.FOREIGN:
                self._tolerate(f"purging {name}", partial(self._discard, name))
        self._sweep((_TRASH_PREFIX,))

    def _discard(self, name: str) -> None:
        self._ops.rename(self._root / name, self._root / f"{_TRASH_PREFIX}{name}-{uuid.uuid4().hex}")
        self._known.pop(name, None)

    def _sweep(self, prefixes: tuple[str, ...]) -> int:
        stale = [entry for entry in self._entries() if entry.name.startswith(prefixes)]
        return sum(self._tolerate(f"removing {entry}", partial(self._remove, entry)) for entry in stale)

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            self._ops.rmtree(path)
        else:
            self._ops.unlink(path)

    def _tolerate(self, what: str, action: Callable[[], None]) -> bool:
        """Do what may fail without harm; a failure is recorded, and tried again with the next save."""
        try:
            action()
        except (OSError, CheckpointError) as error:
            self._housekeeping_errors.append(f"{what}: {error}")
            return False
        return True

    def _entries(self) -> list[Path]:
        try:
            if not self._root.is_file():
                return sorted(self._root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"cannot list the checkpoints in {self._root}: {error.strerror}") from error
        hint = f"; it {PICKLE_ADVICE}" if is_pickle(self._root) else ""
        raise ForeignCheckpointError(f"{self._root} is a file; expected a directory of checkpoints{hint}")

    def _nothing_left(self, rejected: list[Rejection]) -> CheckpointError:
        if rejected:
            reasons = "; ".join(str(item) for item in rejected)
            return CheckpointError(f"no valid checkpoint in {self._root}: {reasons}")
        pickles = [entry.name for entry in self._entries() if is_pickle(entry)]
        if pickles:
            return ForeignCheckpointError(
                f"{self._root} holds no checkpoint of ours; {pickles[0]!r} {PICKLE_ADVICE}"
            )
        return CheckpointError(
            f"no checkpoint in {self._root}: expected directories with names like 'e0012-b00034'"
        )


def _offer_older(names: tuple[str, ...], refused: str) -> str:
    older = names[names.index(refused) + 1 :]
    return f"; to continue from the older checkpoint {older[0]}, move {refused} elsewhere" if older else ""


def _build_entry(data: bytes) -> FileEntry:
    return FileEntry(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
