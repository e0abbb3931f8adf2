"""Which fleet is the fastest for a task, its hosts and this machine: measured, not believed.

```
each candidate: build > one interval > seeds of all kinds > one interval > timed intervals > close
serial          on a few hosts, because hosts that take turns cost the same each
processes       only where there is work enough to pay for starting them
```
The choice is a name that is written into the run's settings: who goes on with the run or replays it measures
nothing again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from esper.leyline import Action, ConfigError, Decision, LifecycleOp, Observation
from esper.runtime.families import HostFactory
from esper.runtime.fleets import build_fleet
from esper.tolaria import FleetConfig

_MAX_HOSTS = 32
_NUM_SERIAL = 8
_NUM_TIMED = 2
_MIN_GAIN = 1.1
"""Ratio of times from which a less simple fleet is taken: below it is noise."""
_MIN_WORK_S = 60.0
"""Seconds of one rollout of all hosts in turn from which worker processes, which take seconds to start, are
measured at all."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTiming:
    """One candidate."""

    kind: str
    seconds: float | None
    """Per host and interval, a seed in every host; None = not measured."""
    note: str = ""

    def describe(self, serial: float) -> str:
        """Return one line.

        Args:
            serial: Seconds of the serial fleet.
        """
        if self.seconds is None:
            return f"{self.kind}: {self.note}"
        return f"{self.kind}: {1e3 * self.seconds:.2f} ms, {serial / self.seconds:.2f} x serial"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChoice:
    """What was measured and what follows from it."""

    kind: str
    timings: tuple[FleetTiming, ...]
    """The serial fleet first."""
    num_hosts: int
    """Hosts of the fused candidates."""

    def describe(self) -> tuple[str, ...]:
        """Return the table and the choice, a line each."""
        serial = self.timings[0].seconds
        assert serial is not None
        lines = [timing.describe(serial) for timing in self.timings]
        head = f"fleet: {self.kind}, by the time per host and interval over {self.num_hosts} hosts:"
        return (head, *(f"  {line}" for line in lines))


def choose_fleet(config: FleetConfig, factory: HostFactory, instances: Sequence[int]) -> FleetChoice:
    """Measure the candidates and choose.

    Args:
        config: Its kind does not matter; workers and timeouts are used.
        factory: Makes the hosts.
        instances: [E] seeds of hosts as they will be trained; at most 32 are measured.

    Raises:
        EsperError: If hosts cannot be built.
    """
    chosen = tuple(instances[:_MAX_HOSTS])
    serial = _measure(replace(config, kind="serial"), factory, chosen[:_NUM_SERIAL])
    timings = [FleetTiming(kind="serial", seconds=serial)]
    if len(chosen) > 1:
        fused = _measure(replace(config, kind="fused"), factory, chosen)
        timings.append(FleetTiming(kind="fused", seconds=fused))
    timings += [_measure_workers(replace(config, kind=kind), factory, chosen, serial) for kind in _WORKERS]
    return FleetChoice(kind=pick_kind(timings), timings=tuple(timings), num_hosts=len(chosen))


_WORKERS = ("process", "fused_process")


def pick_kind(timings: Sequence[FleetTiming]) -> str:
    """Return the fastest kind; one that is less simple, so comes later, must be a tenth faster.

    Args:
        timings: From the simplest to the least simple, the first one measured.
    """
    best = timings[0]
    for timing in timings[1:]:
        assert best.seconds is not None
        if timing.seconds is not None and best.seconds / timing.seconds >= _MIN_GAIN:
            best = timing
    return best.kind


def _measure_workers(
    config: FleetConfig, factory: HostFactory, instances: Sequence[int], serial: float
) -> FleetTiming:
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_cores < 2 or len(instances) < 2:
        return FleetTiming(kind=config.kind, seconds=None, note="not measured: nothing to share")
    work = serial * len(instances) * factory.horizon_epochs
    if work < _MIN_WORK_S:
        note = f"not measured: workers do not pay for {work:.0f} s of work in a rollout"
        return FleetTiming(kind=config.kind, seconds=None, note=note)
    try:
        return FleetTiming(kind=config.kind, seconds=_measure(config, factory, instances))
    except ConfigError as error:  # hosts on a GPU, little shared memory: no reason to refuse the other fleets
        return FleetTiming(kind=config.kind, seconds=None, note=f"not measured: {error}")


def _measure(config: FleetConfig, factory: HostFactory, instances: Sequence[int]) -> float:
    """Return seconds per host and interval."""
    fleet = build_fleet(config, factory, instances, encode=tuple)
    try:
        fleet.apply([Decision()] * len(instances))
        fleet.train_epoch()
        fleet.apply([_plant(place, observation) for place, observation in enumerate(fleet.observations())])
        fleet.train_epoch()
        seconds = []
        for _ in range(_NUM_TIMED):
            started = time.perf_counter()
            fleet.apply([Decision()] * len(instances))
            fleet.train_epoch()
            fleet.observations()
            seconds.append(time.perf_counter() - started)
    finally:
        fleet.close()
    return min(seconds) / len(instances)


def _plant(place: int, observation: Observation) -> Decision:
    """Return a germination: slots and blueprints with weights in turn, as a policy that explores has them.

    A fused fleet gains by seeds that are alike; with one blueprint in every host it would seem to gain more
    than it will.
    """
    space = observation.space
    slot = space.slot_ids[place % len(space.slot_ids)]
    offered = [name for name, cost in space.descriptors[slot].items() if cost.num_params > 0]
    if not offered:
        return Decision()
    blueprint = offered[place // len(space.slot_ids) % len(offered)]
    return Decision(action=Action(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint))
