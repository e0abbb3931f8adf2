"""The seeds of a group of hosts, sorted into banks of one kind each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import final
from weakref import WeakKeyDictionary

from esper.kasmina import MorphogeneticModel, Seed, SeedSlot, build_stacked, signature
from esper.tolaria.fleet.fused.bank import BankRow, ParameterBank
from esper.tolaria.fleet.fused.calls import SeedBank
from esper.tolaria.fleet.fused.stack import HostStack
from esper.tolaria.parts import Workbench

_SEED = "seed"


@final
class SeedKinds:
    """What two seeds must share to be rows of one bank, asked once in a seed's life."""

    def __init__(self) -> None:
        """Know nothing."""
        self._kinds: WeakKeyDictionary[Seed, Hashable] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Return how many seeds are known that still live."""
        return len(self._kinds)

    def find(self, seed: Seed) -> Hashable:
        """Return a seed's kind.

        Raises:
            UnstackableError: If it cannot be stacked.
        """
        if seed not in self._kinds:
            self._kinds[seed] = signature(seed)
        return self._kinds[seed]


def build_seed_banks(benches: Sequence[Workbench], stack: HostStack, kinds: SeedKinds) -> list[SeedBank]:
    """Return the seeds of all hosts by slot, isolation and kind, in forward order, as copies.

    Args:
        benches: [R] of the group.
        stack: Its hosts.
        kinds: What is known of the seeds.

    Raises:
        UnstackableError: If a seed cannot be stacked.
    """
    banks = []
    for slot_id in stack.segment_of:
        sorted_members: dict[tuple[bool, Hashable], list[int]] = {}
        slots = [bench.model.slot(slot_id) for bench in benches]
        for member, slot in enumerate(slots):
            if slot.seed is not None:
                # Isolated seeds run in passes of their own: in a bank of their own no weight is picked out.
                key = (slot.state.stage.is_isolated, kinds.find(slot.seed))
                sorted_members.setdefault(key, []).append(member)
        for members in sorted_members.values():
            first = slots[members[0]].seed
            assert first is not None
            rows = [_describe(benches[member], slot_id) for member in members]
            banks.append(
                SeedBank(
                    slot_id=slot_id,
                    bank=ParameterBank(rows),
                    stacked=build_stacked(first, stack.arrangement_at(slot_id), prefix=_SEED),
                    slots=tuple(slots[member] for member in members),
                    members=tuple(members),
                )
            )
    return banks


def describe_host(bench: Workbench) -> BankRow:
    """Return a host as a row of a bank; paths are those in the host."""
    prefix = len("host.")
    named = bench.model.host_parameters()
    return BankRow(
        optimizer=bench.optimizer,
        owner="host",
        parameters={name[prefix:]: parameter for name, parameter in named.items()},
    )


def is_stackable(model: MorphogeneticModel) -> bool:
    """Whether the host's weights are all trained, and its seeds have nothing beside such weights."""
    seeds = [slot.seed for slot in model.each_slot() if slot.seed is not None]
    return all(parameter.requires_grad for parameter in model.parameters()) and not any(
        True for seed in seeds for _ in seed.buffers()
    )


def _describe(bench: Workbench, slot_id: str) -> BankRow:
    slot: SeedSlot = bench.model.slot(slot_id)
    return BankRow(optimizer=bench.optimizer, owner=slot_id, parameters=dict(slot.named_parameters()))
