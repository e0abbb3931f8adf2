"""E host runs of which those of one architecture train as one program; the others run one after another.

What is fused is an interval's training, validation and counterfactuals. Which hosts go together is asked
before every interval, because growth changes it: a host with a seed that cannot be stacked trains alone until
the seed is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch

from esper.leyline import ActionResult, Decision, EpochOutcome, Observation, Verdict
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.fleet.fused.grouping import HostGroups
from esper.tolaria.fleet.fused.measuring import measure_group
from esper.tolaria.fleet.fused.stack import HostStack
from esper.tolaria.fleet.fused.training import GroupTraining
from esper.tolaria.fleet.serial import SerialFleet
from esper.tolaria.host_run import HostRun
from esper.tolaria.measuring import SplitResult

_KEPT_BYTES = 31 * 2**20

ColumnsT = TypeVar("ColumnsT")


@final
@dataclass(slots=True, kw_only=True)
class FusedShare:
    """Intervals of hosts, by how they were trained."""

    fused: int = 0
    alone: int = 0
    fused_with_seeds: int = 0
    """Of the fused ones, those of hosts in which a seed lived."""
    alone_with_seeds: int = 0

    @property
    def with_seeds(self) -> float:
        """Fused share of the intervals in which a seed lived, in [0, 1]; 1 where there was none."""
        total = self.fused_with_seeds + self.alone_with_seeds
        return self.fused_with_seeds / total if total else 1.0


@final
class FusedFleet(Generic[ColumnsT]):
    """E host runs, those of one architecture as one program.

    Example:
        FusedFleet(build_run, range(32), encode=encode_many).train_epoch()
    """

    def __init__(
        self,
        build_run: Callable[[int], HostRun],
        instances: Sequence[int],
        *,
        encode: Callable[[Sequence[Observation]], ColumnsT],
        min_rows: int = 2,
    ) -> None:
        """Build the hosts.

        Args:
            build_run: Makes the host run of an instance id.
            instances: [E] ids, E >= 1.
            encode: Makes columns [E, ...] of E observations.
            min_rows: Hosts of one architecture from which they are fused, >= 1.

        Raises:
            ValueError: If there is no instance, or one occurs twice.
        """
        _keep_freed_memory()
        self._hosts = SerialFleet(build_run, instances, encode=encode)
        self._groups = HostGroups(min_rows)
        self.share = FusedShare()
        """How intervals were trained so far."""

    @property
    def num_hosts(self) -> int:
        """E."""
        return self._hosts.num_hosts

    @property
    def is_finished(self) -> tuple[bool, ...]:
        """See `Fleet.is_finished`."""
        return self._hosts.is_finished

    @property
    def runs(self) -> tuple[HostRun, ...]:
        """The host runs, by place."""
        return self._hosts.runs

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        """See `Fleet.reset`."""
        self._hosts.reset(mask, instances, start_states)

    def observe(self) -> ColumnsT:
        """See `Fleet.observe`."""
        return self._hosts.observe()

    def observations(self) -> tuple[Observation, ...]:
        """See `Fleet.observations`."""
        return self._hosts.observations()

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        """See `Fleet.apply`."""
        return self._hosts.apply(decisions)

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        """See `Fleet.train_epoch`."""
        runs = self._hosts.runs
        outcomes: list[EpochOutcome | None] = [None] * len(runs)
        groups = self._groups.sort(runs)
        for group in groups.fused:
            found = self._train_group([runs[place] for place in group.places], group.stack)
            for place, outcome in zip(group.places, found, strict=True):
                outcomes[place] = outcome
        for place in groups.alone:
            self._count([runs[place]], is_fused=False)
            outcomes[place] = runs[place].train_epoch()
        return tuple(outcomes), tuple(run.verdict for run in runs)

    def finish(self) -> tuple[SplitResult, ...]:
        """See `Fleet.finish`."""
        return self._hosts.finish()

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        """See `Fleet.conclude`."""
        return self._hosts.conclude(mask)

    def state(self) -> tuple[StateRecord, ...]:
        """See `Fleet.state`."""
        return self._hosts.state()

    def restore(self, states: Sequence[StateRecord]) -> None:
        """See `Fleet.restore`."""
        self._hosts.restore(states)

    def close(self) -> None:
        """See `Fleet.close`."""
        self._hosts.close()

    # ------------------------------------------------------------------ inside

    def _train_group(self, runs: Sequence[HostRun], stack: HostStack) -> list[EpochOutcome]:
        started = time.monotonic()
        epochs = [run.begin_interval() for run in runs]
        training = GroupTraining(runs, stack)
        self._count(runs, is_fused=True)
        lasting = training.train(epochs)
        seconds = (time.monotonic() - started) / len(runs)
        measured = measure_group(training)
        return [
            run.end_interval(own, bad, seconds) for run, own, bad in zip(runs, measured, lasting, strict=True)
        ]

    def _count(self, runs: Sequence[HostRun], *, is_fused: bool) -> None:
        grown = sum(any(slot.seed is not None for slot in run.bench.model.each_slot()) for run in runs)
        if is_fused:
            self.share.fused += len(runs)
            self.share.fused_with_seeds += grown
        else:
            self.share.alone += len(runs)
            self.share.alone_with_seeds += grown


def _keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one, instead of giving it back to the system.

    A stacked step allocates and frees tens of megabytes. glibc maps large blocks anew each time, and every
    page of them faults in; once a block of up to 32 MiB has been freed, it keeps blocks of that size
    (mallopt(3), M_MMAP_THRESHOLD is dynamic). Harmless elsewhere.
    """
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)
