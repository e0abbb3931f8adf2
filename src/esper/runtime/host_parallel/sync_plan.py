"""Gradients, faults and wishes of all ranks, once per step: `tolaria.GradientReducer` for several ranks.

```
reduce: flatten by group -> finite? -> meet (same plan?) -> one row of numbers from everyone
        a gradient outside of the plan -> all leave with its name
        else -> add gradients over ranks -> copy back -> verdict
```
The plan comes from the topology: parameters by name, flat buckets of 25 MiB per group, zeros where a
rank has no gradient. Losses are weighted by rows before, so that sums are means. Faults are told before sums:
after them every rank has them.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.leyline import RanksDisagreeError
from esper.runtime.host_parallel.agreed_stop import AgreedStop, Wish
from esper.runtime.ranks.channel import Channel, Operation
from esper.runtime.ranks.gradients import Bucket, add_flats, copy_back, flatten, plan_buckets
from esper.runtime.ranks.torch_collective import TorchCollective
from esper.tolaria import HOST, PlanEntry, StepFlags, StepVerdict, check_plan, hash_layout


@final
class _Planned(NamedTuple):
    """One bucket and whose gradients it holds."""

    group: str
    bucket: Bucket


@final
class _Row(NamedTuple):
    """What one rank says about a step; as long as the plan says, whatever is said."""

    stray: int
    """Rank + 1 if it holds a gradient outside of the plan, else 0."""
    wish: Wish
    faults: tuple[int, ...]
    """Per group rank + 1 if its gradient is not finite, else 0."""
    present: tuple[int, ...]
    """Per parameter of isolated seeds whether there is a gradient."""
    loss: float
    metric_sum: float

    def encode(self) -> list[int]:
        """Return whole numbers; floats by their bits."""
        return [
            self.stray,
            *self.wish,
            *self.faults,
            *self.present,
            *struct.unpack("<2q", struct.pack("<2d", self.loss, self.metric_sum)),
        ]


@final
class SyncPlan:
    """Sums gradients over ranks by a plan; results have the same bits on all of them.

    Example:
        plan = SyncPlan(channel, AgreedStop(signals))
        HostRunParts(..., ranks=HostCopies(...))  # which hands it to its host run
    """

    def __init__(self, channel: Channel, stop: AgreedStop, *, is_ordered: bool = False) -> None:
        """Start without a plan.

        Args:
            channel: To the other ranks.
            stop: Told what all ranks wish, in every step.
            is_ordered: Add in the order of ranks; equals one process that adds the losses of all ranks' rows.
        """
        self._channel, self._stop, self._is_ordered = channel, stop, is_ordered
        self._layout = 0
        self._groups: tuple[str, ...] = ()
        self._planned: tuple[_Planned, ...] = ()
        self._isolated: tuple[nn.Parameter, ...] = ()
        self._held: frozenset[int] = frozenset()
        self._watched: Mapping[str, nn.Parameter] = {}
        self._faults: dict[str, tuple[int, int]] = {}

    def replan(self, entries: Sequence[PlanEntry], parameters: Mapping[str, nn.Parameter]) -> int:
        """Take a new plan; see `GradientReducer.replan`. Nothing is exchanged.

        Raises:
            ValueError: If names, shapes or dtypes of the two do not match, or a name occurs twice.
        """
        check_plan(entries, parameters)
        ordered = sorted(entries, key=lambda entry: entry.name)
        members: dict[str, list[nn.Parameter]] = {}
        for entry in ordered:
            members.setdefault(entry.group, []).append(parameters[entry.name])
        self._groups = tuple(sorted(members))
        self._planned = tuple(
            _Planned(group, bucket) for group in self._groups for bucket in plan_buckets(members[group])
        )
        self._isolated = tuple(parameters[entry.name] for entry in ordered if entry.is_isolated)
        self._held = frozenset(id(parameter) for parameter in parameters.values())
        self._layout = hash_layout(entries)
        return self._layout

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Look for gradients outside of the plan among these parameters, by name."""
        self._watched = parameters

    def take_faults(self) -> dict[str, tuple[int, int]]:
        """Return group -> (batches in which it was not finite, first rank to blame), and forget them."""
        faults, self._faults = self._faults, {}
        return faults

    def reduce(self, local: StepFlags) -> StepVerdict:
        """Replace gradients by their sums over ranks, and say what all ranks agree on.

        Raises:
            RanksDisagreeError: If plans differ, or a rank has a gradient outside of the plan.
            RankFailureError: If a rank did not come.
        """
        strays = self._find_strays()
        flats = [flatten(planned.bucket) for planned in self._planned]
        mine = self._describe(local, flats, has_stray=bool(strays))
        rows = self._exchange(mine)
        if any(row.stray for row in rows):
            self._refuse_strays(strays)
        self._stop.settle([row.wish for row in rows])
        sums = add_flats(self._channel, flats, is_ordered=self._is_ordered)
        for planned, flat in zip(self._planned, sums, strict=True):
            copy_back(planned.bucket, flat)
        for place, parameter in enumerate(self._isolated):
            if not any(row.present[place] for row in rows):  # zeros would decay what is not being trained
                parameter.grad = None
        return StepVerdict(
            faulty_ranks=self._find_faulty(rows),
            is_stop_requested=self._stop(),
            loss=_add(row.loss for row in rows),
            metric_sum=_add(row.metric_sum for row in rows),
        )

    # ------------------------------------------------------------------ inside

    def _find_strays(self) -> list[str]:
        return [
            name
            for name, parameter in self._watched.items()
            if parameter.grad is not None and id(parameter) not in self._held
        ]

    def _describe(self, local: StepFlags, flats: Sequence[Tensor], *, has_stray: bool) -> _Row:
        number = self._channel.place.rank + 1
        present = tuple(int(parameter.grad is not None) for parameter in self._isolated)
        facts = [flat.isfinite().all().double() for flat in flats]
        sums = [value.double() for value in (local.loss, local.metric_sum) if value is not None]
        values = torch.stack([*facts, *sums]).tolist()  # sync: one row of numbers per batch
        bad = {planned.group for planned, fact in zip(self._planned, values, strict=False) if not fact}
        loss, metric_sum = values[len(facts) :] or (0.0, 0.0)
        if not math.isfinite(loss):
            bad.add(HOST)
        bad |= local.faulty_groups
        return _Row(
            stray=number if has_stray else 0,
            wish=self._stop.wish,
            faults=tuple(number if group in bad else 0 for group in self._groups),
            present=present,
            loss=loss,
            metric_sum=metric_sum,
        )

    def _exchange(self, mine: _Row) -> list[_Row]:
        numbers = torch.tensor(mine.encode(), dtype=torch.int64)
        digest = hashlib.sha256(str(self._layout).encode()).digest()
        if not self._channel.meet(Operation.STEP, length=len(numbers), digest=digest):
            raise RanksDisagreeError("ranks planned the reduction of different parameters")
        rows = self._channel.gather(Operation.STEP, numbers)
        return [self._decode(row.tolist()) for row in rows]

    def _decode(self, numbers: list[int]) -> _Row:
        stray, code, save, *rest = numbers
        *flags, loss_bits, metric_bits = rest
        loss, metric_sum = struct.unpack("<2d", struct.pack("<2q", loss_bits, metric_bits))
        count = len(self._groups)
        return _Row(stray, Wish(code, save), tuple(flags[:count]), tuple(flags[count:]), loss, metric_sum)

    def _find_faulty(self, rows: Sequence[_Row]) -> dict[str, int]:
        highest = {group: max(row.faults[k] for row in rows) for k, group in enumerate(self._groups)}
        faulty = {group: value - 1 for group, value in highest.items() if value}
        for group, rank in faulty.items():
            count, first = self._faults.get(group, (0, rank))
            self._faults[group] = (count + 1, first)
        return faulty

    def _refuse_strays(self, strays: Sequence[str]) -> None:
        told = TorchCollective(self._channel).gather_bytes(", ".join(strays[:3]).encode())
        guilty = [f"{names.decode()} on rank {rank}" for rank, names in enumerate(told) if names]
        raise RanksDisagreeError(
            f"a gradient outside of the reduction plan, which no other rank would see: {'; '.join(guilty)}"
        )


def _add(values: Iterable[float]) -> Tensor:
    """Return the sum in the order of ranks."""
    return torch.tensor(sum(values), dtype=torch.float64)
