"""The few numbers that the overview and the comparison need of a run, kept while its files are read once.

Holds a bounded number of points whatever the length of the run; records themselves are not kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import final

from esper.cli.dashboard.plain import finite
from esper.cli.dashboard.store import MAX_STEP_BYTES
from esper.leyline import (
    EpochCompleted,
    Event,
    JsonValue,
    PolicyTrainingStarted,
    PolicyUpdated,
    RolledBack,
    RunFinished,
    RunStarted,
    SeedStage,
    StageChanged,
)
from esper.nissa import Record, tail

MAX_POINTS = 2_000
"""Of a curve; over it every second point goes."""
MAX_CHANGES = 4_000
"""Stage changes kept; later ones are counted only."""
RETURN_NAME = "rollout/ep_rew_mean"
"""What a round of policy training brought, under the name that it has in the log."""


@final
class RunDigest:
    """One run in a few numbers."""

    def __init__(self, path: Path) -> None:
        """Hold nothing yet.

        Args:
            path: A run directory.
        """
        self.lock = threading.Lock()
        self.is_behind = True
        self.is_training = False
        """Whether the run trains a policy; its points are rounds then, else epochs."""
        self.metric_name = ""
        self.points: dict[int, float] = {}
        """Epoch or round -> metric or mean return; only hosts with instance 0 are followed."""
        self.horizon = 0
        """Epochs or rounds planned."""
        self.slots: tuple[str, ...] = ()
        self.changes: list[tuple[int, str, str]] = []
        """(epoch, slot, stage entered)."""
        self.test_metrics: dict[str, float] = {}
        self.num_params = 0
        self.num_envs = 0
        """Hosts that are grown at the same time, where a policy is trained."""
        self._batches = tail(path, MAX_STEP_BYTES, frozenset(kind.__name__ for kind in _TAKERS))

    def refresh(self, budget_seconds: float) -> None:
        """Read what was added to the files since, for at most about this time.

        Raises:
            OSError: If a file cannot be read.
        """
        with self.lock:
            begun = time.monotonic()
            self.is_behind = True
            while self.is_behind and time.monotonic() - begun < budget_seconds:
                batch = next(self._batches)
                self.take(batch.records)
                self.is_behind = batch.is_behind

    def take(self, records: Sequence[Record]) -> None:
        """Take further records into account."""
        for record in records:
            take = _TAKERS.get(type(record.event))
            if take is not None and record.event.instance == 0:
                take(self, record.event)
        while len(self.points) > MAX_POINTS:
            last = max(self.points)
            kept = [x for index, x in enumerate(sorted(self.points)) if index % 2 == 0 or x == last]
            self.points = {x: self.points[x] for x in kept}

    def curve(self, max_points: int = MAX_POINTS) -> tuple[list[int], list[float]]:
        """Return x and y of at most about so many points, the last among them."""
        x = sorted(self.points)
        step = max(1, -(-len(x) // max_points))
        kept = x[::-step][::-1]
        return kept, [self.points[each] for each in kept]

    def strips(self) -> list[JsonValue]:
        """Return per slot its stages in order, as [stage, first epoch, last epoch]."""
        end = max([*self.points, *(change[0] for change in self.changes)], default=0)
        spans: dict[str, list[list[JsonValue]]] = {
            slot: [[SeedStage.DORMANT.value, 0, end]] for slot in self.slots
        }
        for epoch, slot, stage in self.changes:
            of_slot = spans.setdefault(slot, [[SeedStage.DORMANT.value, 0, end]])
            of_slot[-1][2] = epoch
            of_slot.append([stage, epoch, end])
        return [{"slot": slot, "spans": of_slot} for slot, of_slot in spans.items()]

    def go_back(self, epoch: int) -> None:
        """Forget what came after an epoch."""
        self.points = {x: y for x, y in self.points.items() if x <= epoch}
        self.changes = [change for change in self.changes if change[0] <= epoch]


def _take_start(digest: RunDigest, event: Event) -> None:
    if isinstance(event, RunStarted):
        digest.horizon, digest.slots = event.horizon_epochs, event.slots
        digest.num_params = event.host_params
    elif isinstance(event, PolicyTrainingStarted):
        digest.is_training, digest.horizon = True, event.num_rounds
        digest.num_envs = event.num_envs
        digest.metric_name, digest.num_params = "return", event.num_parameters
    digest.test_metrics = {}
    digest.go_back(event.epoch)


def _take_epoch(digest: RunDigest, event: Event) -> None:
    if not isinstance(event, EpochCompleted):
        return
    name = min((name for name in event.raw_metrics if not name.startswith("train_")), default="metric")
    value = finite(event.raw_metrics.get(name, event.metric))
    digest.metric_name, digest.num_params = name, event.total_params
    if value is not None:
        digest.points[event.epoch] = value


def _take_round(digest: RunDigest, event: Event) -> None:
    value = finite(event.metrics.get(RETURN_NAME)) if isinstance(event, PolicyUpdated) else None
    if value is not None:
        digest.points[event.epoch] = value


def _take_change(digest: RunDigest, event: Event) -> None:
    if isinstance(event, StageChanged) and len(digest.changes) < MAX_CHANGES:
        digest.changes.append((event.epoch, event.slot, event.new))


def _take_rollback(digest: RunDigest, event: Event) -> None:
    if isinstance(event, RolledBack):
        digest.go_back(event.restored_epoch)


def _take_end(digest: RunDigest, event: Event) -> None:
    if isinstance(event, RunFinished):
        digest.test_metrics = dict(event.test_metrics.items())
        digest.num_params = event.total_params or digest.num_params


_TAKERS = MappingProxyType(
    {
        RunStarted: _take_start,
        PolicyTrainingStarted: _take_start,
        EpochCompleted: _take_epoch,
        PolicyUpdated: _take_round,
        StageChanged: _take_change,
        RolledBack: _take_rollback,
        RunFinished: _take_end,
    }
)
