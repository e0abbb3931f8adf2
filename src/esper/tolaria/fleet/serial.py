"""One host after another in this process: the oracle that every faster fleet is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from esper.leyline import ActionResult, Decision, EpochOutcome, Observation, Verdict
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.host_run import HostRun
from esper.tolaria.measuring import SplitResult

ColumnsT = TypeVar("ColumnsT")


@final
class SerialFleet(Generic[ColumnsT]):
    """E host runs that take turns; each keeps its own random stream, so turns do not matter.

    Example:
        SerialFleet(build_run, [0, 1], encode=encode_many).observe().slots.shape  # [2, S, F]
    """

    def __init__(
        self,
        build_run: Callable[[int], HostRun],
        instances: Sequence[int],
        *,
        encode: Callable[[Sequence[Observation]], ColumnsT],
    ) -> None:
        """Build the hosts.

        Args:
            build_run: Makes the host run of an instance id.
            instances: [E] ids, E >= 1.
            encode: Makes columns [E, ...] of E observations, e.g. tamiyo's `encode_many`.

        Raises:
            ValueError: If there is no instance, or one occurs twice.
        """
        if not instances or len(set(instances)) != len(instances):
            raise ValueError(f"instances={list(instances)}: need at least one, each once")
        self._build_run = build_run
        self._encode = encode
        self._runs = [build_run(instance) for instance in instances]
        self._seen: tuple[Observation, ...] | None = None
        """What was observed since anything was done; None = nothing yet."""

    @property
    def num_hosts(self) -> int:
        """E."""
        return len(self._runs)

    @property
    def is_finished(self) -> tuple[bool, ...]:
        """See `Fleet.is_finished`."""
        return tuple(run.is_finished for run in self._runs)

    @property
    def runs(self) -> tuple[HostRun, ...]:
        """The host runs, by place; who moves one past the fleet asks for them again afterwards."""
        self._seen = None
        return tuple(self._runs)

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        """See `Fleet.reset`."""
        self._seen = None
        states = [None] * len(mask) if start_states is None else start_states
        for place, (is_reset, instance, state) in enumerate(zip(mask, instances, states, strict=True)):
            if not is_reset:
                continue
            self._runs[place] = self._build_run(instance)
            if state is not None:
                self._runs[place].restore(state)

    def observe(self) -> ColumnsT:
        """See `Fleet.observe`."""
        return self._encode(self.observations())

    def observations(self) -> tuple[Observation, ...]:
        """See `Fleet.observations`."""
        if self._seen is None:
            self._seen = tuple(run.observe() for run in self._runs)
        return self._seen

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        """See `Fleet.apply`."""
        self._seen = None
        results = []
        for run, decision in zip(self._runs, decisions, strict=True):
            results.append(run.apply(Decision(reason="finished") if run.is_finished else decision))
        return tuple(results)

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        """See `Fleet.train_epoch`."""
        self._seen = None
        outcomes = tuple(None if run.is_finished else run.train_epoch() for run in self._runs)
        return outcomes, tuple(run.verdict for run in self._runs)

    def finish(self) -> tuple[SplitResult, ...]:
        """See `Fleet.finish`."""
        self._seen = None
        return tuple(run.finish() for run in self._runs)

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        """See `Fleet.conclude`."""
        self._seen = None
        pairs = zip(self._runs, mask, strict=True)
        return tuple(run.conclude() if is_ended else None for run, is_ended in pairs)

    def state(self) -> tuple[StateRecord, ...]:
        """See `Fleet.state`."""
        return tuple(run.state() for run in self._runs)

    def restore(self, states: Sequence[StateRecord]) -> None:
        """See `Fleet.restore`."""
        self._seen = None
        for run, state in zip(self._runs, states, strict=True):
            run.restore(state)

    def close(self) -> None:
        """See `Fleet.close`."""
        self._seen = None
        self._runs.clear()
