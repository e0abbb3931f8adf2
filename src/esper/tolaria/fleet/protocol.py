"""What every fleet of host runs can do; all implementations give the same numbers for the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from esper.leyline import ActionResult, Decision, EpochOutcome, Observation, Verdict
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.measuring import SplitResult


class Fleet(Protocol):
    """E host runs, each known by its instance id; row e is place e, never an id."""

    @property
    def num_hosts(self) -> int:
        """E, >= 1."""

    def reset(
        self,
        mask: Sequence[bool],
        instances: Sequence[int],
        start_states: Sequence[StateRecord | None] | None = None,
    ) -> None:
        """Start fresh hosts in the places where `mask` is True.

        Args:
            mask: [E].
            instances: [E] instance ids; with the run seed they fix every random stream.
            start_states: [E] states to go on from; None = from the beginning.
        """

    def observe(self) -> tuple[Observation, ...]:
        """Return [E] observations."""

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        """Carry out one decision per host; finished hosts answer with WAIT."""

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        """Train one interval everywhere; return [E] outcomes (None where finished) and verdicts."""

    def finish(self) -> tuple[SplitResult, ...]:
        """End every host at its horizon and read its test split once."""

    def state(self) -> tuple[StateRecord, ...]:
        """Return [E] states."""

    def restore(self, states: Sequence[StateRecord]) -> None:
        """Put back what `state` returned."""

    def close(self) -> None:
        """Free everything; harmless when repeated."""
