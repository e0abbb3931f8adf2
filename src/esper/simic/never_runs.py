"""What a host comes to when it never grows: the base of rewards, and a bank of states to begin episodes from.

One life per instance, trained once and kept; the owner bounds how many. A host that never grows does the same
whatever the policy, so its curve is a constant that can be taken from a return without changing what is best.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from esper.leyline import ConfigError, Decision
from esper.tolaria import HostRun, StateRecord


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
        self, build_run: Callable[[int], HostRun], *, start_epochs: tuple[int, ...] = (), max_runs: int = 256
    ) -> None:
        """Keep nothing yet.

        Args:
            build_run: Makes the host run of an instance id.
            start_epochs: Intervals (>= 1) after which the host's state is kept, to begin episodes there.
            max_runs: Lives kept at once, >= 1.

        Raises:
            ConfigError: If a number is out of range.
        """
        if max_runs < 1:
            raise ConfigError(f"max_runs={max_runs}: must be >= 1")
        if any(epoch < 1 for epoch in start_epochs):
            raise ConfigError(f"start_epochs={start_epochs}: each must be >= 1; a fresh host needs no state")
        self._build_run = build_run
        self._start_epochs = frozenset(start_epochs)
        self._max_runs = max_runs
        self._runs: OrderedDict[int, NeverRun] = OrderedDict()
        self.num_trained = 0
        """Lives trained so far; what a cache that is too small costs."""

    def get(self, instance: int) -> NeverRun:
        """Return the life of one instance, training it if it is not kept.

        Raises:
            GovernorGaveUpError: If the host does not survive even alone.
        """
        if instance in self._runs:
            self._runs.move_to_end(instance)
            return self._runs[instance]
        run = self._train(instance)
        self.keep(instance, run)
        return run

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
