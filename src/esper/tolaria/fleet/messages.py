"""What a fleet and its workers say to each other: one request, one reply, both plain data.

```
Request(verb, {row: argument}) --> worker --> Reply({row: RowReply}, failure)
```
No message holds a tensor: what must travel, the states of hosts, travels as bytes (`PackedState`), and only
when hosts are started, saved and restored.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

import torch
from torch import Tensor

from esper.leyline import (
    ActionResult,
    Decision,
    EpochOutcome,
    Event,
    JsonValue,
    Observation,
    Verdict,
)
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.measuring import SplitResult


@final
class Verb(Enum):
    """What a worker is asked to do with rows."""

    START = "reset"
    OBSERVE = "observe"
    APPLY = "apply"
    TRAIN = "train_epoch"
    FINISH = "finish"
    CONCLUDE = "conclude"
    STATE = "state"
    RESTORE = "restore"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """One tensor as bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedState:
    """A `StateRecord` as plain data; names that shared one tensor share one again when it is unpacked."""

    state: dict[str, JsonValue]
    names: dict[str, int]
    """Name -> place in `tensors`."""
    tensors: tuple[PackedTensor, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RowStart:
    """How a row begins: which host, and from where."""

    instance: int
    state: PackedState | None = None
    """None = from the beginning."""


RowArgument = RowStart | Decision | PackedState | None
RowValue = ActionResult | EpochOutcome | SplitResult | PackedState | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the fleet for the rows of one worker.

    Example:
        Request(verb=Verb.APPLY, rows={2: Decision(), 3: Decision()})
    """

    verb: Verb
    rows: Mapping[int, RowArgument]
    """Row -> argument, in the order in which the rows take their turns."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RowReply:
    """What came of one row, and how its host stands now."""

    value: RowValue = None
    is_finished: bool = False
    verdict: Verdict = field(default_factory=Verdict)
    observation: Observation | None = None
    """None after `apply` and `state`."""
    events: tuple[Event, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error that a host run, or what builds host runs, raised in a worker."""

    row: int | None
    """None = before any row."""
    error_type: type[Exception]
    arguments: tuple[object, ...]
    attributes: Mapping[str, object]
    text: str
    """Traceback."""
    events: tuple[Event, ...] = ()
    """Of the row, until it failed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a request; with a failure, of the rows before it."""

    rows: Mapping[int, RowReply] = field(default_factory=dict)
    failure: Failure | None = None


def describe_failure(error: Exception, row: int | None, events: tuple[Event, ...] = ()) -> Failure:
    """Return an error in a form that another process can raise again."""
    return Failure(
        row=row,
        error_type=type(error),
        arguments=error.args,
        attributes=dict(vars(error)),
        text="".join(traceback.format_exception(error)),
        events=events,
    )


def rebuild_error(failure: Failure) -> Exception:
    """Return the error of another process: same type, message and attributes, its traceback as a note."""
    # Its constructor may want other arguments than those it keeps.
    error = failure.error_type.__new__(failure.error_type, *failure.arguments)
    error.args = failure.arguments
    for name, value in failure.attributes.items():
        setattr(error, name, value)
    error.add_note(f"Raised in a worker process:\n{failure.text}")
    return error


def pack_state(record: StateRecord) -> PackedState:
    """Return a state as plain data; tensors are copied to bytes."""
    places: dict[int, int] = {}
    names: dict[str, int] = {}
    tensors: list[PackedTensor] = []
    for name, tensor in record.tensors.items():
        place = places.setdefault(id(tensor), len(tensors))
        if place == len(tensors):
            tensors.append(_pack_tensor(tensor))
        names[name] = place
    return PackedState(state=record.state, names=names, tensors=tuple(tensors))


def unpack_state(packed: PackedState) -> StateRecord:
    """Return the state of `pack_state`; its tensors lie on the CPU and belong to the caller."""
    tensors = [_unpack_tensor(tensor) for tensor in packed.tensors]
    return StateRecord(
        tensors={name: tensors[place] for name, place in packed.names.items()}, state=packed.state
    )


def _pack_tensor(tensor: Tensor) -> PackedTensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return PackedTensor(
        dtype=tensor.dtype, shape=tuple(tensor.shape), data=flat.view(torch.uint8).numpy().tobytes()
    )


def _unpack_tensor(packed: PackedTensor) -> Tensor:
    if not packed.data:
        return torch.empty(packed.shape, dtype=packed.dtype)
    # A copy that may be written to: bytes may not.
    return torch.frombuffer(bytearray(packed.data), dtype=packed.dtype).reshape(packed.shape)
