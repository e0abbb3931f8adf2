"""Which hosts of a fleet can train as one program, asked before every interval.

Together go hosts with the same modules, the same optimiser but for its rates, the same data and batches, and
the same way of measuring. Alone goes whatever the stacked program does not do: hosts that are no chain of
segments, compiled ones, fp16, other incubation objectives, probes, several ranks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from esper.kasmina import CANONICAL, UnstackableError
from esper.leyline import NullProbe
from esper.tolaria.fleet.fused.seeds import SeedKinds, is_stackable
from esper.tolaria.fleet.fused.stack import HostStack, sign_host
from esper.tolaria.host_ranks import OneRank

if TYPE_CHECKING:
    from esper.tolaria.host_run import HostRun


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostGroup:
    """Places of a fleet whose hosts train together."""

    places: tuple[int, ...]
    stack: HostStack


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SortedHosts:
    """All places of a fleet that have something to train."""

    fused: tuple[HostGroup, ...]
    alone: tuple[int, ...]


@final
class HostGroups:
    """Sorts hosts; remembers what it saw of each for as long as it is in the fleet."""

    def __init__(self, min_rows: int) -> None:
        """Remember nothing.

        Args:
            min_rows: Hosts from which a group is one, >= 1.
        """
        self._min_rows = min_rows
        self.kinds = SeedKinds()
        """What is known of the seeds that were looked at."""
        self._seen: list[tuple[HostRun, Hashable]] = []
        self._stacks: dict[Hashable, HostStack] = {}

    def sort(self, runs: Sequence[HostRun]) -> SortedHosts:
        """Return which of the runs that are not finished train together."""
        self._look_at(runs)
        members: dict[Hashable, list[int]] = {}
        alone = []
        for place, (run, facts) in enumerate(self._seen):
            if run.is_finished:
                continue
            if facts is None or not _is_ready(run, self.kinds):
                alone.append(place)
            else:
                members.setdefault(facts, []).append(place)
        fused = []
        for facts, places in members.items():
            if len(places) < self._min_rows:
                alone += places
                continue
            fused.append(HostGroup(places=tuple(places), stack=self._stacks[facts]))
        return SortedHosts(fused=tuple(fused), alone=tuple(sorted(alone)))

    def _look_at(self, runs: Sequence[HostRun]) -> None:
        before, self._seen = self._seen, []
        for place, run in enumerate(runs):
            if place < len(before) and before[place][0] is run:
                self._seen.append(before[place])
                continue
            self._seen.append((run, self._describe(run)))
        present = {facts for _, facts in self._seen}
        self._stacks = {facts: stack for facts, stack in self._stacks.items() if facts in present}

    def _describe(self, run: HostRun) -> Hashable:
        """Return what hosts that train together have in common; None if this one must train alone."""
        bench, config = run.bench, run.config
        model = bench.model
        slots = list(model.each_slot())
        is_plain = (
            config.compile == "none"
            and config.amp in ("off", "bf16")
            and config.seed_checkpointing == "off"
            and isinstance(run.ranks, OneRank)
            and isinstance(bench.probe, NullProbe)
            and model.incubation.needs_tail
            and all(s.spec.pair is None and s.tap.arrangement == CANONICAL[s.spec.layout] for s in slots)
        )
        if not is_plain:
            return None
        optimizer = replace(config.optimizer, learning_rate=1.0, warmup_fraction=0.0, final_fraction=1.0)
        try:
            facts = (
                sign_host(model),
                tuple((s.slot_id, s.spec.shape, s.spec.dtype, str(s.spec.device)) for s in slots),
                optimizer,
                config.measuring,
                config.amp,
                run.task,
                bench.batches.identity,
                id(bench.data),
                model.input_shape,
            )
            if facts not in self._stacks:
                self._stacks[facts] = HostStack(model)
        except UnstackableError:
            return None
        return facts


def _is_ready(run: HostRun, kinds: SeedKinds) -> bool:
    """Whether the host stands between two intervals and all its seeds can be stacked."""
    model = run.bench.model
    if run.progress.batch or not is_stackable(model):
        return False
    try:
        for slot in model.each_slot():
            if slot.seed is not None:
                kinds.find(slot.seed)
    except UnstackableError:
        return False
    return True
