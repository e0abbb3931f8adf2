"""What goes into a checkpoint and what comes out, as records, and the strict match of tensors.

Knows neither the disk nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint.manifest import Manifest


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateRecord:
    """The state of something that can be continued: named tensors and plain data.

    The record does not copy: whoever builds it decides whether tensors are clones. What cannot be saved
    (a non-finite float, an unknown type) is refused by `CheckpointStore.save`, with the path to it.

    Example:
        >>> StateRecord(tensors={"model.head.weight": torch.zeros(10, 8)}, state={"epoch": 3})
    """

    tensors: Mapping[str, Tensor]
    """By qualified name, `[A-Za-z0-9_.:/#-]{1,256}`; any shape and device; two may share one tensor."""
    state: dict[str, JsonValue]
    """Finite numbers, strings, booleans, None, lists and string-keyed mappings. Tuples come back as lists.
    The writer turns integers beyond 2**53 into strings: readers other than Python would round them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that is durable under its name."""

    name: str
    """`e<epoch>-b<batch>`."""
    path: Path
    num_bytes: int
    """Of all its files."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A damaged checkpoint that was passed over.

    Example:
        >>> Rejection(name="e0012-b00000", file="state.json", reason="is missing")
    """

    name: str
    file: str
    """The file at fault, or "." for the directory itself."""
    reason: str

    def __str__(self) -> str:
        """Return "name/file: reason"."""
        return f"{self.name}/{self.file}: {self.reason}"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint whose every byte was checked before it was parsed."""

    record: StateRecord
    """Tensors lie on the CPU, sorted by name; names that shared one tensor when saved share one again."""
    name: str
    topology_hash: str
    """As given to `save`; the caller compares it with the topology that it rebuilt."""
    manifest: Manifest
    rejected: tuple[Rejection, ...] = ()
    """Newer checkpoints that were damaged, newest first."""


def match_tensors(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Check that two sets of tensors have the same names, shapes and dtypes, in both directions.

    Args:
        expected: What the rebuilt object has.
        loaded: What the checkpoint holds.

    Raises:
        ForeignCheckpointError: Naming the first difference, in the order missing, unexpected, shape, dtype.
    """
    missing = [name for name in expected if name not in loaded]
    extra = [name for name in loaded if name not in expected]
    counts = (
        f"(expected {len(expected)} tensors, found {len(loaded)}: {len(missing)} missing, {len(extra)} extra)"
    )
    if missing:
        instead = f"; found {extra[0]!r}, which is not expected" if extra else ""
        raise ForeignCheckpointError(f"the checkpoint lacks the tensor {missing[0]!r}{instead} {counts}")
    if extra:
        raise ForeignCheckpointError(f"the checkpoint has an unexpected tensor {extra[0]!r} {counts}")
    for name, tensor in expected.items():
        other = loaded[name]
        if tensor.shape != other.shape:
            raise ForeignCheckpointError(
                f"tensor {name!r}: expected shape {tuple(tensor.shape)}, found {tuple(other.shape)}"
            )
        if tensor.dtype != other.dtype:
            raise ForeignCheckpointError(f"tensor {name!r}: expected {tensor.dtype}, found {other.dtype}")
