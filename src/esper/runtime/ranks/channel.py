"""The two groups of one rank, and the meeting that opens every exchange over them.

```
exchange -> heartbeat.enter_collective -> meet: operation, length and layout of all ranks -> data
```
Without the meeting, ranks that disagree would hang, or add up numbers that do not belong together. It costs
one gather of 48 bytes, and it, not the data, is what waits for slow ranks. Groups are called themselves, not
by torch's global functions, so that ranks may be threads of one process.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from esper.leyline import RanksDisagreeError
from esper.runtime.ranks.guard import Guard
from esper.runtime.ranks.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work

NO_DIGEST = bytes(32)


@final
class Operation(IntEnum):
    """What ranks can do together; the number travels."""

    ALL_SUM = 1
    ALL_MAX = 2
    BROADCAST = 3
    ALL_AGREE = 4
    GRADIENTS = 5
    MODULE = 6
    BARRIER = 7
    GATHER_BYTES = 8
    STEP = 9
    ANNOUNCE = 10
    VOTE = 11
    RECORD = 12

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self.name.lower()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rank among others, and how long it waits for them."""

    rank: int
    world_size: int
    control_timeout_s: float
    gradient_timeout_s: float


@final
class Channel:
    """Exchanges tensors with the other ranks; every exchange has a timeout, and a failed one a culprit."""

    def __init__(
        self,
        place: Place,
        heartbeat: Heartbeat,
        guard: Guard,
        *,
        control: ProcessGroup,
        gradients: ProcessGroup,
    ) -> None:
        """Take the groups.

        Args:
            place: This rank.
            heartbeat: Told before each exchange.
            guard: Around each exchange.
            control: gloo, for small tensors on the CPU.
            gradients: For tensors where the network lies.
        """
        self.place = place
        self._heartbeat, self._guard = heartbeat, guard
        self._control, self._gradients = control, gradients

    def meet(self, operation: Operation, *, length: int = 0, digest: bytes = NO_DIGEST) -> bool:
        """Wait until every rank is here for the same, and compare a digest.

        Args:
            operation: What follows.
            length: Numbers that will be exchanged, alike on all ranks.
            digest: 32 bytes.

        Returns:
            Whether all digests are equal.

        Raises:
            RanksDisagreeError: If ranks are here for different operations or lengths.
            RankFailureError: If a rank did not come.
        """
        self._heartbeat.enter_collective(operation.label)
        mine = torch.tensor([operation, length, *struct.unpack("<4q", digest)], dtype=torch.int64)
        rows = [row.tolist() for row in self._gather(operation, mine, self._control)]
        _refuse_different("ranks entered different collectives", [_name(row[0]) for row in rows])
        _refuse_different(f"{operation.label} got sequences of unequal length", [row[1] for row in rows])
        return all(row == rows[0] for row in rows)

    def gather(self, operation: Operation, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, in their order, over the group of the operation."""
        return self._gather(operation, tensor, self._group(operation))

    def add(self, operation: Operation, tensor: Tensor) -> None:
        """Replace a tensor by its sum over ranks, with the same bits on all of them."""
        self.add_all(operation, [tensor])

    def add_all(self, operation: Operation, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks; they travel together."""
        group = self._group(operation)
        with self._guard(operation.label):
            for work in [group.allreduce([tensor]) for tensor in tensors]:
                self._wait(work, operation)

    def copy_first(self, operation: Operation, tensor: Tensor) -> None:
        """Replace a tensor by that of rank 0."""
        with self._guard(operation.label):
            self._wait(self._group(operation).broadcast(tensor, 0), operation)

    def _gather(self, operation: Operation, tensor: Tensor, group: ProcessGroup) -> list[Tensor]:
        everyone = [torch.empty_like(tensor) for _ in range(self.place.world_size)]
        with self._guard(operation.label):
            self._wait(group.allgather([everyone], [tensor]), operation)
        return everyone

    def _group(self, operation: Operation) -> ProcessGroup:
        return self._gradients if operation is Operation.GRADIENTS else self._control

    def _wait(self, work: Work, operation: Operation) -> None:
        # A timeout given here blocks with nccl, too, where a wait without one only orders the streams.
        is_gradient = operation is Operation.GRADIENTS
        seconds = self.place.gradient_timeout_s if is_gradient else self.place.control_timeout_s
        work.wait(timedelta(seconds=seconds))


def _name(number: int) -> str:
    return Operation(number).label if number in set(Operation) else f"number {number}"


def _refuse_different(problem: str, found: Sequence[str | int]) -> None:
    if len(set(found)) == 1:
        return
    ranks: dict[str | int, list[str]] = defaultdict(list)
    for rank, value in enumerate(found):
        ranks[value].append(str(rank))
    table = "; ".join(f"{value} on rank {', '.join(who)}" for value, who in ranks.items())
    raise RanksDisagreeError(f"{problem}: {table}")
