"""What one host run asks of its copies on other ranks: `tolaria.HostRanks` over a channel.

```
announce  everyone's own decision as numbers -> rank 0's is taken, others are counted
vote      refused anywhere, or not to be built anywhere? -> nobody acts, and all say who could not
check     topology, optimiser, clocks, checksums of numbers -> equal, or all leave with the first difference
settle    rank 0's running statistics for all
agree     the governor's failure on one rank -> the same failure on all
```
Every rank validates and measures everything: equal weights give equal numbers, and gates need every bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, final

import torch

from esper.data import Batch
from esper.leyline import (
    ActionSpace,
    Decision,
    EventSink,
    JsonValue,
    Notice,
    NullSink,
    RanksDisagreeError,
    Verdict,
    canonical_json,
    derive_seed,
)
from esper.runtime.host_parallel.agreed_stop import AgreedStop
from esper.runtime.host_parallel.announcements import (
    ACTION_LENGTH,
    decode_action,
    describe_action,
    encode_action,
)
from esper.runtime.host_parallel.disagreement import describe_difference, sum_bits, to_finite
from esper.runtime.host_parallel.shares import deal_rows
from esper.runtime.host_parallel.sync_plan import SyncPlan
from esper.runtime.ranks.channel import Channel, Operation
from esper.runtime.ranks.gradients import copy_tensors, copy_weights
from esper.runtime.ranks.torch_collective import TorchCollective
from esper.tolaria import BatchShare, GradientReducer, OwnRng, SharedState

if TYPE_CHECKING:
    from torch import nn

_MAX_REASON = 300
_PHASES: Mapping[str, str] = MappingProxyType(
    {"interval": "train", "epoch": "measure", "rollback": "roll back", "checkpoint": "save"}
)
"""Moment of a comparison -> the phase that it opens, as heartbeats name it."""


def _stay_silent(_phase: str, _step: int) -> None:
    """Tell nobody what begins."""


@final
class HostCopies:
    """The copies of one host run, as one of their ranks sees them; serves a single run.

    Example:
        copies = HostCopies(group.channel, AgreedStop(signals), sink, enter=group.enter)
        assembly = assemble(config, sink, ranks=copies)
    """

    def __init__(
        self,
        channel: Channel,
        stop: AgreedStop,
        sink: EventSink | None = None,
        *,
        enter: Callable[[str, int], None] = _stay_silent,
        is_ordered: bool = False,
    ) -> None:
        """Take the way to the others.

        Args:
            channel: To the other ranks.
            stop: Told in every step what all ranks wish.
            sink: Where notices go; None drops them.
            enter: Hears in which phase of which epoch this rank is.
            is_ordered: Add gradients in the order of ranks.
        """
        self._channel, self._enter = channel, enter
        self._collective = TorchCollective(channel)
        self._sink: EventSink = NullSink() if sink is None else sink
        self._plan = SyncPlan(channel, stop, is_ordered=is_ordered)
        self.num_disagreements = 0
        """Decision points at which a rank would have decided otherwise than rank 0."""

    def build_reducer(self) -> GradientReducer:
        """Return the one reducer of this run."""
        return self._plan

    def take_share(self, batch: Batch) -> BatchShare:
        """Return this rank's rows and their share of the batch."""
        num_rows, place = len(batch.targets), self._channel.place
        rows = deal_rows(num_rows, place.rank, place.world_size)
        if not rows:
            return BatchShare(None, 0.0)
        if len(rows) == num_rows:
            return BatchShare(batch, 1.0)
        part = Batch(*(column[rows.start : rows.stop] for column in batch))
        return BatchShare(part, len(rows) / num_rows)

    def seed_batch(self, rng: OwnRng, run_seed: int, path: tuple[int, ...]) -> None:
        """Derive the stream of a batch from its path and the rank, so that none has to be saved.

        A single rank goes on with its one stream, like a process that is alone.
        """
        place = self._channel.place
        if place.world_size > 1:
            rng.reseed(derive_seed(run_seed, "rank-batch", *path, place.rank))

    # ------------------------------------------------------------------ events

    def announce(self, decision: Decision, space: ActionSpace, path: tuple[int, ...]) -> Decision:
        """Return rank 0's decision.

        Raises:
            RanksDisagreeError: If ranks are at different places.
            RankFailureError: If a rank did not come.
        """
        epoch = path[0]
        self._enter("act", epoch)
        mine = torch.tensor([*encode_action(decision.action), *path], dtype=torch.int64)
        self._channel.meet(Operation.ANNOUNCE, length=len(mine))
        rows = [row.tolist() for row in self._channel.gather(Operation.ANNOUNCE, mine)]
        places = [row[ACTION_LENGTH:] for row in rows]
        if any(place != places[0] for place in places):
            raise RanksDisagreeError(f"ranks decide at different places (epoch, event, seed): {places}")
        chosen = decode_action(rows[0][:ACTION_LENGTH], space)
        others = {
            rank: describe_action(decode_action(row[:ACTION_LENGTH], space))
            for rank, row in enumerate(rows)
            if row != rows[0]
        }
        if others:
            self.num_disagreements += 1
            table = ", ".join(f"rank {rank} {text}" for rank, text in others.items())
            self._say(
                epoch,
                f"ranks decided differently, {self.num_disagreements} times by now: rank 0's "
                f"{describe_action(chosen)} is taken, not {table}",
            )
        if self._collective.rank in others:
            return Decision(action=chosen, reason="rank 0 decided")
        return decision

    def vote(self, refusal: str | None, attempt: Callable[[], str | None]) -> str | None:
        """Try an action on all ranks, and return why all of them must take it back, if one must.

        Raises:
            RanksDisagreeError: If ranks are here for something else.
            RankFailureError: If a rank did not come.
        """
        if refusal is None:
            try:
                refusal = attempt()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not leave this rank alone
                refusal = f"{type(error).__name__}: {error}"
        self._channel.meet(Operation.VOTE)
        mine = torch.tensor([int(refusal is None)], dtype=torch.int64)
        if all(int(vote) for vote in self._channel.gather(Operation.VOTE, mine)):
            return None
        told = self._collective.gather_bytes((refusal or "")[:_MAX_REASON].encode())
        return _join_refusals([text.decode(errors="replace") for text in told])

    def share_seed(self, seed: nn.Module | None) -> None:
        """Give all ranks rank 0's weights of a new seed: all drew the same ones, on equal machines."""
        if seed is not None:
            copy_weights(seed, self._channel)

    # ------------------------------------------------------------------ equality

    def settle(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Give all ranks rank 0's buffers, once names and shapes are known to be equal.

        Raises:
            RanksDisagreeError: If the ranks differ in more than the content of tensors.
            RankFailureError: If a rank did not come.
        """
        state = describe()
        epoch = _read_epoch(state)
        self._compare(moment, epoch, _to_plain(state))
        copy_tensors(sorted(state.buffers.items()), self._channel)
        for group, (count, rank) in self._plan.take_faults().items():
            self._say(epoch, f"updates of {group} withheld {count} times on all ranks, first for rank {rank}")

    def check(self, moment: str, describe: Callable[[], SharedState]) -> None:
        """Compare everything, every number included.

        Raises:
            RanksDisagreeError: If the ranks differ; names the first difference.
            RankFailureError: If a rank did not come.
        """
        state = describe()
        self._plan.watch(state.parameters)
        plain = {**_to_plain(state), "values": sum_bits(state.tensors)}
        self._compare(moment, _read_epoch(state), plain)

    def agree(self, verdict: Verdict) -> Verdict:
        """Return the verdict of the first rank whose governor found a failure; else the healthy one.

        Raises:
            RanksDisagreeError: If ranks are here for something else.
            RankFailureError: If a rank did not come.
        """
        text = json.dumps([verdict.kind, verdict.reason, verdict.blamed_slot]) if verdict.is_failure else ""
        told = [data.decode() for data in self._collective.gather_bytes(text.encode())]
        failing = [rank for rank, words in enumerate(told) if words]
        if not failing or len(set(told)) == 1:
            return verdict
        kind, reason, slot = json.loads(told[failing[0]])
        return Verdict(kind=kind, reason=f"rank {failing[0]}: {reason}", blamed_slot=slot)

    def _compare(self, moment: str, epoch: int, state: JsonValue) -> None:
        if moment in _PHASES:
            self._enter(_PHASES[moment], epoch)
        text = canonical_json(state)
        if self._collective.all_agree(text):
            return
        states = [json.loads(data) for data in self._collective.gather_bytes(text.encode())]
        raise RanksDisagreeError(
            f"ranks differ at this {moment}, after {epoch} epochs: {describe_difference(states)}"
        )

    def _say(self, epoch: int, text: str) -> None:
        self._sink.emit(Notice(epoch=epoch, text=text))


def _to_plain(state: SharedState) -> dict[str, JsonValue]:
    return {name: to_finite(value) for name, value in state.facts.items()}


def _read_epoch(state: SharedState) -> int:
    epoch = state.facts["epoch"]
    assert isinstance(epoch, int)
    return epoch


def _join_refusals(refusals: Sequence[str]) -> str:
    """Return one line; a reason that all ranks give is given once, as one process would."""
    if len(set(refusals)) == 1:
        return refusals[0]
    return "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(refusals) if text)
