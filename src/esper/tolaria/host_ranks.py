"""What a host run asks of its copies on other ranks, and the answer where there are none.

```
apply        announce > vote (all act, or nobody) > share_seed > check
each batch   take_share, seed_batch, the reducer
each epoch   check > batches > settle > measure > agree on the governor's verdict > check after a rollback
save         settle > check
```
With one rank every answer is what was asked for. Knows no process group: who exchanges is the runtime's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

from torch import Tensor, nn

from esper.data import Batch
from esper.leyline import ActionSpace, Decision, JsonValue, Verdict
from esper.tolaria.reducer import GradientReducer, NoReduce
from esper.tolaria.rng import OwnRng


@final
class BatchShare(NamedTuple):
    """The rows of a batch that this rank trains on."""

    batch: Batch | None
    """None = this rank has none of them."""
    weight: float
    """Its rows over those of the batch, in [0, 1]: the factor that makes mean losses add up to the mean."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedState:
    """What must be equal on all ranks, as it stands now. Nothing is copied."""

    facts: Mapping[str, JsonValue]
    """Topology, optimiser, governor and the like as plain data; floats may be non-finite."""
    tensors: Mapping[str, Tensor]
    """Parameters, buffers and moments by name."""
    buffers: Mapping[str, Tensor]
    """Those of the tensors that every rank updates from its own rows."""
    parameters: Mapping[str, nn.Parameter]
    """Of host and seeds by name, trained or not."""


class HostRanks(Protocol):
    """The copies of one host, each trained on a part of every batch; calls are in the same order on all."""

    def build_reducer(self) -> GradientReducer:
        """Return the reducer of a new host run."""

    def take_share(self, batch: Batch) -> BatchShare:
        """Return this rank's rows of a batch that all ranks see alike."""

    def seed_batch(self, rng: OwnRng, run_seed: int, path: tuple[int, ...]) -> None:
        """Give each rank a stream of its own for a batch.

        Args:
            rng: The host run's, installed.
            run_seed: Of the whole run.
            path: Instance, epoch and batch.
        """

    def announce(self, decision: Decision, space: ActionSpace, path: tuple[int, ...]) -> Decision:
        """Return the decision that all ranks follow.

        Args:
            decision: This rank's own.
            space: Names of slots and blueprints here.
            path: Epoch, number of the event, build seed; alike on all ranks.
        """

    def vote(self, refusal: str | None, attempt: Callable[[], str | None]) -> str | None:
        """Return why an action is not carried out on any rank; None = on all.

        Args:
            refusal: Why this rank refuses it; None if nothing speaks against it.
            attempt: Tries what can be taken back, and returns why it failed or None; called only without a
                refusal. If the answer is not None, whoever calls takes it back.
        """

    def share_seed(self, seed: nn.Module | None) -> None:
        """Give all ranks rank 0's weights of a seed that was just planted; None = none was."""

    def settle(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Give all ranks rank 0's buffers.

        Args:
            moment: A word for a person, such as epoch or checkpoint.
            describe: What the ranks have in common.
        """

    def check(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Check that all ranks are equal.

        Args:
            moment: A word for a person, such as interval, event or rollback.
            describe: What the ranks have in common.
        """

    def agree(self, verdict: Verdict) -> Verdict:
        """Return the governor's verdict that all ranks follow: a failure on one is one on all."""


@final
class OneRank:
    """One process: every batch is whole, every decision stands."""

    def build_reducer(self) -> GradientReducer:
        """Return one that reduces nothing."""
        return NoReduce()

    def take_share(self, batch: Batch) -> BatchShare:
        """Return the whole batch."""
        return BatchShare(batch, 1.0)

    def seed_batch(self, rng: OwnRng, run_seed: int, path: tuple[int, ...]) -> None:
        """Do nothing: the stream goes on."""

    def announce(self, decision: Decision, space: ActionSpace, path: tuple[int, ...]) -> Decision:
        """Return the decision."""
        del space, path
        return decision

    def vote(self, refusal: str | None, attempt: Callable[[], str | None]) -> str | None:
        """Try what is not refused; an error that is no refusal is raised as it is."""
        return attempt() if refusal is None else refusal

    def share_seed(self, seed: nn.Module | None) -> None:
        """Do nothing."""

    def settle(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Do nothing."""

    def check(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Do nothing."""

    def agree(self, verdict: Verdict) -> Verdict:
        """Return the verdict."""
        return verdict
