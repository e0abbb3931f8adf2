"""One interval of many host runs: those of one architecture as one program, the others one after another.

What is fused is training, validation and counterfactuals. Which hosts go together is asked before every
interval, because growth changes it: a host with a seed that cannot be stacked trains alone until the seed is
gone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from esper.leyline import EpochOutcome
from esper.tolaria.fleet.fused.grouping import HostGroups
from esper.tolaria.fleet.fused.measuring import measure_group
from esper.tolaria.fleet.fused.stack import HostStack
from esper.tolaria.fleet.fused.training import GroupTraining
from esper.tolaria.host_run import HostRun

_KEPT_BYTES = 31 * 2**20


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
class FusedTrainer:
    """Trains the intervals of host runs; remembers what it saw of each for as long as it is handed in."""

    def __init__(self, min_rows: int = 2, *, is_watched: bool | None = None) -> None:
        """Remember nothing.

        Args:
            min_rows: Hosts of one architecture from which they are fused, >= 1.
            is_watched: See `GroupTraining`.
        """
        self._is_watched = is_watched
        _keep_freed_memory()
        self._groups = HostGroups(min_rows)
        self.share = FusedShare()
        """How intervals were trained so far."""

    def train(self, runs: Sequence[HostRun]) -> list[EpochOutcome | None]:
        """Train one interval of every run that is not finished.

        Args:
            runs: Each in the same place as in the last call, where it was in that.

        Returns:
            An outcome per run, None where it is finished.

        Raises:
            GovernorGaveUpError: As `HostRun.train_epoch`.
        """
        outcomes: list[EpochOutcome | None] = [None] * len(runs)
        groups = self._groups.sort(runs)
        for group in groups.fused:
            found = self._train_group([runs[place] for place in group.places], group.stack)
            for place, outcome in zip(group.places, found, strict=True):
                outcomes[place] = outcome
        for place in groups.alone:
            self._count([runs[place]], is_fused=False)
            outcomes[place] = runs[place].train_epoch()
        return outcomes

    def _train_group(self, runs: Sequence[HostRun], stack: HostStack) -> list[EpochOutcome]:
        started = time.monotonic()
        epochs = [run.begin_interval() for run in runs]
        training = GroupTraining(runs, stack, self._groups.kinds, is_watched=self._is_watched)
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
