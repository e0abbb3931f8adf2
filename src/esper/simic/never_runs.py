"""What a host comes to when it never grows: the base of rewards, and a bank of states to begin episodes from.

One life per instance, trained once and kept; the owner bounds how many. A host that never grows does the same
whatever the policy, so its curve is a constant that can be taken from a return without changing what is best.
Lives may be trained in blocks, by a fleet. Who is in a block is fixed: what a fused fleet computes depends in
its last bits on who trains along, and a life must not depend on when it was asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from esper.leyline import ConfigError, Decision
from esper.tolaria import Fleet, HostRun, StateRecord


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NeverRun:
    """One host from its first interval to its horizon, without a seed."""

    metrics: tuple[float, ...]
    """[horizon + 1] validation metric after each interval, higher is better; the first is 0: before anything
    was measured the metric of every arm counts as 0."""
    states: Mapping[int, StateRecord]
    """Interval -> the host as it stood there, for those intervals that were asked for."""

    def metric(self, epoch: int) -> float:
        """Return the metric after `epoch` intervals; the last one where the host had ended before."""
        return self.metrics[min(epoch, len(self.metrics) - 1)]


@final
class NeverRuns:
    """Trains and keeps never-grown lives by instance id; the least recently used goes first.

    Example:
        NeverRuns(build_run, start_epochs=(0, 4, 8), max_runs=64).get(17).metric(5)
    """

    def __init__(
        self,
        build_run: Callable[[int], HostRun],
        *,
        start_epochs: tuple[int, ...] = (),
        max_runs: int = 256,
        blocks: Sequence[Sequence[int]] = (),
        build_fleet: Callable[[Sequence[int]], Fleet[object]] | None = None,
    ) -> None:
        """Keep nothing yet.

        Args:
            build_run: Makes the host run of an instance id.
            start_epochs: Intervals (>= 1) after which the host's state is kept, to begin episodes there.
            max_runs: Lives kept at once, >= 1; where there are blocks, as many as in one of them.
            blocks: Instances whose lives are trained together, none in two of them.
            build_fleet: Makes the fleet of a block; None = every life is trained alone.

        Raises:
            ConfigError: If a number is out of range.
        """
        if max_runs < max([1, *map(len, blocks)]):
            raise ConfigError(f"max_runs={max_runs}: must be >= 1, and hold a block")
        if any(epoch < 1 for epoch in start_epochs):
            raise ConfigError(f"start_epochs={start_epochs}: each must be >= 1; a fresh host needs no state")
        self._build_run = build_run
        self._start_epochs = frozenset(start_epochs)
        self._max_runs = max_runs
        self._build_fleet = build_fleet
        self._blocks = {instance: tuple(block) for block in blocks for instance in block}
        self._runs: OrderedDict[int, NeverRun] = OrderedDict()
        self.num_trained = 0
        """Lives trained so far; what a cache that is too small costs."""

    def find_block(self, instance: int) -> tuple[int, ...]:
        """Return the instances whose lives are trained together with this one's, itself among them."""
        return (instance,) if self._build_fleet is None else self._blocks.get(instance, (instance,))

    def get(self, instance: int) -> NeverRun:
        """Return the life of one instance, training it if it is not kept.

        Raises:
            GovernorGaveUpError: If the host does not survive even alone.
        """
        if instance in self._runs:
            self._runs.move_to_end(instance)
            return self._runs[instance]
        block = self.find_block(instance)
        if self._build_fleet is None or len(block) == 1:
            self.keep(instance, self._train(instance))
        else:
            for member, life in zip(block, self._train_block(block, self._build_fleet), strict=True):
                self.keep(member, life)
        self._runs.move_to_end(instance)
        return self._runs[instance]

    def find_missing(self, instances: Sequence[int]) -> list[int]:
        """Return those of the instances whose lives are not kept; nothing is trained."""
        return [instance for instance in instances if instance not in self._runs]

    def keep(self, instance: int, run: NeverRun) -> None:
        """Keep a life that was trained elsewhere; the least recently used one goes if there are too many."""
        self._runs[instance] = run
        self._runs.move_to_end(instance)
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def _train(self, instance: int) -> NeverRun:
        run = self._build_run(instance)
        metrics, states = [0.0], {}
        while not run.is_finished:
            run.apply(Decision(reason="never grown"))
            run.train_epoch()
            metrics.append(run.signals.metric)
            if run.epoch in self._start_epochs and not run.is_finished:
                states[run.epoch] = run.state()
        self.num_trained += 1
        return NeverRun(metrics=tuple(metrics), states=MappingProxyType(states))

    def _train_block(
        self, block: Sequence[int], build_fleet: Callable[[Sequence[int]], Fleet[object]]
    ) -> list[NeverRun]:
        fleet = build_fleet(block)
        metrics = [[0.0] for _ in block]
        states: list[dict[int, StateRecord]] = [{} for _ in block]
        never = [Decision(reason="never grown")] * len(block)
        while not all(fleet.is_finished):
            lives_on = [not is_finished for is_finished in fleet.is_finished]
            fleet.apply(never)
            fleet.train_epoch()
            observations = fleet.observations()
            for place, observation in enumerate(observations):
                if lives_on[place]:
                    metrics[place].append(observation.signals.metric)
            self._keep_states(fleet, [observation.signals.epoch for observation in observations], states)
        fleet.close()
        self.num_trained += len(block)
        return [
            NeverRun(metrics=tuple(own), states=MappingProxyType(kept))
            for own, kept in zip(metrics, states, strict=True)
        ]

    def _keep_states(
        self, fleet: Fleet[object], epochs: Sequence[int], states: Sequence[dict[int, StateRecord]]
    ) -> None:
        due = [
            not is_finished and epoch in self._start_epochs and epoch not in kept
            for epoch, is_finished, kept in zip(epochs, fleet.is_finished, states, strict=True)
        ]
        if not any(due):
            return
        for epoch, is_due, kept, record in zip(epochs, due, states, fleet.state(), strict=True):
            if is_due:
                kept[epoch] = record
