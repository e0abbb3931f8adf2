"""Which rows run which seeds in a pass of a group, for as long as no seed changes its mode.

```
OPEN        blended into the host's own pass
INCUBATING  taught by a second pass over the tail, behind the seed at full alpha (`lessons`)
SILENT      in no pass: no seed, not yet begun, or alpha at 0
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from esper.kasmina import SlotMode
from esper.tolaria.fleet.fused.calls import SeedBank, SeedCall, SlotCalls
from esper.tolaria.fleet.fused.lessons import Lessons
from esper.tolaria.fleet.fused.stack import HostStack

Modes = tuple[tuple[SlotMode, ...], ...]


def read_modes(banks: Sequence[SeedBank]) -> Modes:
    """Return every seed's present mode, by bank and row."""
    return tuple(tuple(slot.mode for slot in source.slots) for source in banks)


@final
class TrainingPlan:
    """The calls of a training pass."""

    def __init__(self, banks: Sequence[SeedBank], modes: Modes, stack: HostStack, num_rows: int) -> None:
        """Sort the seeds by mode.

        Args:
            banks: Every seed of the group.
            modes: From `read_modes`.
            stack: The hosts.
            num_rows: R, hosts of the group.
        """
        self.modes = modes
        open_calls: dict[str, list[SeedCall]] = {slot_id: [] for slot_id in stack.segment_of}
        taught: dict[str, list[SeedCall]] = {}
        self.open_banks: list[int] = []
        self.has_gradient: list[torch.Tensor] = []
        """[G] per bank: whether a seed gets a gradient in every batch, be it 0."""
        self.teaches_all = True
        """Whether every seed does."""
        for index, (source, own) in enumerate(zip(banks, modes, strict=True)):
            is_open = [row for row, mode in enumerate(own) if mode is SlotMode.OPEN]
            is_taught = [row for row, mode in enumerate(own) if mode is SlotMode.INCUBATING]
            if is_open:
                open_calls[source.slot_id].append(_call(source, is_open))
                self.open_banks.append(index)
            if is_taught:
                taught.setdefault(source.slot_id, []).append(_call(source, is_taught))
            planned = [not slot.state.stage.is_isolated for slot in source.slots]
            has_values = source.bank.num_values > 0
            learns = [
                has_values and (is_planned or row in is_taught) for row, is_planned in enumerate(planned)
            ]
            self.teaches_all = self.teaches_all and all(learns)
            self.has_gradient.append(torch.tensor(learns, device=source.bank.values.device))
        self.slots = {
            slot_id: SlotCalls(calls, num_rows, stack.arrangement_at(slot_id))
            for slot_id, calls in open_calls.items()
        }
        self.taught_slots = frozenset(taught)
        self.lessons = Lessons(taught, banks, modes, stack) if taught else None

    def forget_alphas(self) -> None:
        """Ask every seed for its alpha again in the next pass."""
        for calls in self.slots.values():
            calls.forget_alphas()
        if self.lessons is not None:
            self.lessons.forget_alphas()


def _call(source: SeedBank, rows: Sequence[int]) -> SeedCall:
    return SeedCall(source, [source.members[row] for row in rows], rows)
