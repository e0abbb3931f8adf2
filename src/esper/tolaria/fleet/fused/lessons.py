"""Incubation by the true loss for many isolated seeds at once: one pass over the tails, one backward pass.

```
rows of slot 1   h + r(h) > segment > slot 2's blended seeds > ...
rows of slot 2                        join here: h + r(h)    > ...  > losses > gradients of these seeds alone
```
h is detached, hosts and other seeds are frozen, norms use the batch and write nothing: no host is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, final

import torch

from esper.kasmina import SlotMode, StackContext, join_stacked, take_rows
from esper.tolaria.fleet.fused.calls import SeedBank, SeedCall, SlotCalls
from esper.tolaria.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from esper.tolaria.fleet.fused.bank import ParameterBank
    from esper.tolaria.fleet.fused.stack import HostStack


@final
class Lessons:
    """The passes that teach the isolated seeds of a group."""

    def __init__(
        self,
        taught: Mapping[str, Sequence[SeedCall]],
        banks: Sequence[SeedBank],
        modes: Sequence[Sequence[SlotMode]],
        stack: HostStack,
    ) -> None:
        """Plan the rows.

        Args:
            taught: Slot -> calls of its isolated seeds; places are rows of the group.
            banks: Every seed of the group.
            modes: Of each, by bank and row.
            stack: The hosts.
        """
        self._taught = taught
        self._stack = stack
        self._slots: dict[str, SlotCalls] = {}
        self._rows: dict[str, Tensor] = {}
        self.banks: list[int] = []
        device = banks[0].bank.values.device
        members: list[int] = []
        for slot_id in stack.segment_of:
            present = {member: [p for p, m in enumerate(members) if m == member] for member in set(members)}
            calls = [
                call
                for source, own in zip(banks, modes, strict=True)
                if source.slot_id == slot_id and (call := _find_open(source, own, present)) is not None
            ]
            self._slots[slot_id] = SlotCalls(calls, len(members), stack.arrangement_at(slot_id))
            for call in taught.get(slot_id, ()):
                members += call.places
                self.banks.append(next(i for i, source in enumerate(banks) if source is call.source))
            self._rows[slot_id] = torch.tensor(members, dtype=torch.int64, device=device)
        self._places = {
            slot_id: [torch.tensor(call.places, device=device) for call in calls]
            for slot_id, calls in taught.items()
        }
        self._first = next(slot_id for slot_id in stack.segment_of if slot_id in taught)
        self._start = stack.segment_of[self._first] + 1
        self._rows_of = [self._rows[stack.slot_before(i)] for i in range(self._start, len(stack.segments))]
        """By segment from the first one behind a taught seed: the rows [R'] that run it."""

    def compute_gradients(
        self,
        features: Mapping[str, Tensor],
        host: ParameterBank,
        targets: Tensor,
        objective: Objective,
    ) -> list[Tensor]:
        """Return the gradient of each taught bank, [G, P] in the order of `banks`.

        Args:
            features: Slot -> what the hosts' own pass brought there, without gradient.
            host: Weights of the hosts.
            targets: [R, B, ...].
            objective: Of the task.
        """
        picked: dict[int, dict[str, Tensor]] = {}  # rows only ever join, so their number names them

        def weights(index: int) -> dict[str, Tensor]:
            rows = self._rows_of[index - self._start]
            if len(rows) not in picked:
                picked[len(rows)] = host.weights(rows, is_frozen=True)
            return picked[len(rows)]

        def context(index: int) -> StackContext:
            return StackContext(num_rows=len(self._rows_of[index - self._start]))

        def join(slot_id: str, h: Tensor) -> Tensor:
            calls = self._slots[slot_id]
            return self._join(slot_id, [calls.run(h, is_frozen=True)], [calls.num_rows], features, host)

        begun = self._join(self._first, [], [], features, host)
        outputs = self._stack.run(begun, self._start, weights, context, join)
        wanted = targets.index_select(0, self._rows_of[-1])
        total = objective.row_losses(outputs, wanted).mean(dim=1).sum()
        values = [call.source.bank.values for calls in self._in_order() for call in calls]
        kept = [value for value in values if value.numel()]
        found = iter(torch.autograd.grad(total, kept) if kept else ())
        return [next(found) if value.numel() else torch.zeros_like(value) for value in values]

    def _join(
        self,
        slot_id: str,
        parts: list[Tensor],
        nums: list[int],
        features: Mapping[str, Tensor],
        host: ParameterBank,
    ) -> Tensor:
        """Return the rows so far and, under them, those whose seeds in this slot are taught."""
        arrangement = self._stack.arrangement_at(slot_id)
        pairs = zip(self._taught.get(slot_id, ()), self._places.get(slot_id, ()), strict=True)
        for call, places in pairs:
            taken = take_rows(features[slot_id], places, arrangement, host.num_rows)
            parts.append(taken + call.compute_residual(taken))
            nums.append(call.num_rows)
        return parts[0] if len(parts) == 1 else join_stacked(parts, None, arrangement, nums)

    def forget_alphas(self) -> None:
        """Ask every blended seed for its alpha again in the next pass."""
        for calls in self._slots.values():
            calls.forget_alphas()

    def _in_order(self) -> list[Sequence[SeedCall]]:
        return [self._taught[slot_id] for slot_id in self._stack.segment_of if slot_id in self._taught]


def _find_open(
    source: SeedBank, modes: Sequence[SlotMode], present: Mapping[int, Sequence[int]]
) -> SeedCall | None:
    """Return the blended seeds of a bank on the rows whose hosts hold them; None without any."""
    places: list[int] = []
    rows: list[int] = []
    for row, (member, mode) in enumerate(zip(source.members, modes, strict=True)):
        if mode is SlotMode.OPEN:
            places += present.get(member, ())
            rows += [row] * len(present.get(member, ()))
    return SeedCall(source, places, rows) if places else None
