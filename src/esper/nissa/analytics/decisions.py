"""Why did it do that? Every decision of a run with its options, its fate, its reward and what was measured.

```
join_decisions   records          -> one row per decision, in the order of the file
pick_decisions   rows             -> those of a host, an epoch, a round
decision_to_plain  a row          -> JSON data
```
Pure functions over records; nothing here reads a file or draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

from esper.leyline import (
    DecisionMade,
    JsonValue,
    PolicyTrainingStarted,
    RewardGranted,
    RolledBack,
    RunStarted,
    SlotMeasured,
)
from esper.nissa.record import Record

_FIELD_OF_HEAD = ("op", "slot", "blueprint", "blend", "curve", "tempo_epochs", "alpha_target")


@final
class Option(NamedTuple):
    """One thing that could be chosen in a head."""

    name: str
    is_legal: bool | None
    """None = not on record."""
    probability: float | None
    """In [0, 1]; None = a rule decided, or it is not on record."""
    is_chosen: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedDecision:
    """A decision and everything that is on record about it."""

    decision: DecisionMade
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Head -> names of its options; empty in files of older versions."""
    reward: RewardGranted | None = None
    measured: SlotMeasured | None = None
    """The slot that it addressed at the end of the interval; None = nothing lives there, or not on record."""
    is_undone: bool = False
    """Whether the governor went back before it."""

    @property
    def options(self) -> Mapping[str, tuple[Option, ...]]:
        """Head -> its options in order, for the heads that the operation uses."""
        decision = self.decision
        used = decision.legal or decision.probabilities
        return {head: self._list_options(head) for head in used}

    def _list_options(self, head: str) -> tuple[Option, ...]:
        legal, shares = self.decision.legal.get(head, ()), self.decision.probabilities.get(head, ())
        size, names, chosen = max(len(legal), len(shares)), self.heads.get(head, ()), self._find_choice(head)
        return tuple(
            Option(
                name=names[place] if place < len(names) else str(place),
                is_legal=legal[place] if place < len(legal) else None,
                probability=shares[place] if place < len(shares) else None,
                is_chosen=place < len(names) and names[place] == chosen,
            )
            for place in range(size)
        )

    def _find_choice(self, head: str) -> str | None:
        name = next((name for name in _FIELD_OF_HEAD if name.startswith(head)), None)
        value = None if name is None else getattr(self.decision, name)
        return f"{value:g}" if isinstance(value, int | float) else value


def join_decisions(records: Iterable[Record]) -> tuple[JoinedDecision, ...]:
    """Return every decision of every host, in the order of the records.

    Args:
        records: Of one run, what a resume went back before left out.

    Example:
        >>> first = join_decisions(log.records)[0]
        >>> first.decision.op, first.reward.epoch, [option.name for option in first.options["slot"]]
        ('GERMINATE', 1, ['hidden1', 'hidden2'])
    """
    rows: list[JoinedDecision] = []
    last: dict[tuple[int, int | None], int] = {}
    """(instance, environment) -> place of its last decision."""
    heads: Mapping[str, tuple[str, ...]] = {}
    for record in records:
        event = record.event
        if isinstance(event, RunStarted | PolicyTrainingStarted):
            heads = event.heads
        elif isinstance(event, DecisionMade):
            last[event.instance, event.env_id] = len(rows)
            rows.append(JoinedDecision(decision=event, heads=heads))
        elif isinstance(event, RewardGranted):
            place = last.get((event.instance, event.env_id))
            if place is not None and event.epoch == rows[place].decision.epoch + 1:
                rows[place] = replace(rows[place], reward=event)
        elif isinstance(event, SlotMeasured):
            place = last.get((event.instance, None))
            if place is not None and rows[place].decision.slot == event.slot:
                rows[place] = replace(rows[place], measured=event)
        elif isinstance(event, RolledBack):
            rows = [_undo(row, event) for row in rows]
    return tuple(rows)


def pick_decisions(
    rows: Sequence[JoinedDecision],
    *,
    instance: int | None = None,
    epoch: int | None = None,
    round_number: int | None = None,
) -> tuple[JoinedDecision, ...]:
    """Return the rows that have these numbers; None = any.

    Example:
        >>> (row,) = pick_decisions(join_decisions(log.records), epoch=0)
        >>> row.decision.op, row.decision.slot
        ('GERMINATE', 'hidden1')
    """
    return tuple(
        row
        for row in rows
        if (instance is None or row.decision.instance == instance)
        and (epoch is None or row.decision.epoch == epoch)
        and (round_number is None or row.decision.round == round_number)
    )


def decision_to_plain(row: JoinedDecision) -> dict[str, JsonValue]:
    """Return a row as plain data with stable keys.

    Example:
        >>> plain = decision_to_plain(join_decisions(log.records)[0])
        >>> plain["op"], plain["slot"], plain["blueprint"], plain["refusal"]
        ('GERMINATE', 'hidden1', 'norm', None)
    """
    decision, reward, measured = row.decision, row.reward, row.measured
    return {
        "epoch": decision.epoch,
        "instance": decision.instance,
        "round": decision.round,
        "env_id": decision.env_id,
        "op": decision.op,
        "slot": decision.slot,
        "blueprint": decision.blueprint,
        "reason": decision.reason,
        "confidence": decision.confidence,
        "refusal": decision.refusal,
        "is_undone": row.is_undone,
        "value": decision.value,
        "options": {
            head: [dict(option._asdict()) for option in options] for head, options in row.options.items()
        },
        "observation": dict(decision.observation),
        "reward": None
        if reward is None
        else {
            "total": reward.total,
            "parts": dict(reward.parts),
            "return_so_far": reward.return_so_far,
        },
        "contribution": None if measured is None else measured.contribution,
        "contribution_error": None if measured is None else measured.contribution_error,
    }


def _undo(row: JoinedDecision, event: RolledBack) -> JoinedDecision:
    is_undone = row.decision.instance == event.instance and row.decision.epoch >= event.restored_epoch
    return replace(row, is_undone=True) if is_undone else row
