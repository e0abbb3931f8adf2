"""E host runs in this process of which those of one architecture train as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from esper.leyline import ActionResult, Decision, EpochOutcome, Observation, Verdict
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.fleet.fused.trainer import FusedShare, FusedTrainer
from esper.tolaria.fleet.serial import SerialFleet
from esper.tolaria.host_run import HostRun
from esper.tolaria.measuring import SplitResult

ColumnsT = TypeVar("ColumnsT")


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
        is_watched: bool | None = None,
    ) -> None:
        """Build the hosts.

        Args:
            build_run: Makes the host run of an instance id.
            instances: [E] ids, E >= 1.
            encode: Makes columns [E, ...] of E observations.
            min_rows: Hosts of one architecture from which they are fused, >= 1.
            is_watched: See `GroupTraining`.

        Raises:
            ValueError: If there is no instance, or one occurs twice.
        """
        self._hosts = SerialFleet(build_run, instances, encode=encode)
        self._trainer = FusedTrainer(min_rows, is_watched=is_watched)

    @property
    def share(self) -> FusedShare:
        """How intervals were trained so far."""
        return self._trainer.share

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
        outcomes = self._trainer.train(runs)
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
