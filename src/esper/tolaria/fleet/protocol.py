"""What every fleet of host runs can do; all implementations give the same numbers for the same seeds.

A fleet shows its hosts twice: as typed observations, which rules read, and as columns [E, ...], which learned
policies read. How numbers become columns is the encoder's business, which the fleet is handed: it must not
know who decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from esper.leyline import ActionResult, Decision, EpochOutcome, Observation, Verdict
from esper.tolaria.checkpoint import StateRecord
from esper.tolaria.measuring import SplitResult

ColumnsT_co = TypeVar("ColumnsT_co", covariant=True)


class Fleet(Protocol[ColumnsT_co]):
    """E host runs, each known by its instance id; row e is place e, never an id.

    `ColumnsT_co` is what the encoder returns, e.g. tamiyo's `EncodedBatch`.
    """

    @property
    def num_hosts(self) -> int:
        """E, >= 1."""

    @property
    def is_finished(self) -> tuple[bool, ...]:
        """[E] whether the host's horizon is reached or its episode was ended; such rows mean nothing new."""

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

    def observe(self) -> ColumnsT_co:
        """Return the encoder's columns of the E observations: tensors [E, ...] named by the feature table."""

    def observations(self) -> tuple[Observation, ...]:
        """Return the [E] typed observations that the columns are made of."""

    def apply(self, decisions: Sequence[Decision]) -> tuple[ActionResult, ...]:
        """Carry out one decision per host; finished hosts answer with WAIT."""

    def train_epoch(self) -> tuple[tuple[EpochOutcome | None, ...], tuple[Verdict, ...]]:
        """Train one interval everywhere; return [E] outcomes (None where finished) and verdicts."""

    def finish(self) -> tuple[SplitResult, ...]:
        """End every host at its horizon and read its test split once."""

    def conclude(self, mask: Sequence[bool]) -> tuple[SplitResult | None, ...]:
        """End the hosts where `mask` is True: cull what was not kept; return [E] validation results there.

        The test split is not read.
        """

    def state(self) -> tuple[StateRecord, ...]:
        """Return [E] states."""

    def restore(self, states: Sequence[StateRecord]) -> None:
        """Put back what `state` returned."""

    def close(self) -> None:
        """Free everything; harmless when repeated."""
