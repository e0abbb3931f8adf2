"""Two event streams of one host side by side: the first event, and the first quantity in it, that differs.

Knows events and no run: neither who tells them nor where they are kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import final

from esper.leyline import DecisionMade, EpochCompleted, Event, JsonValue, RunFinished
from esper.nissa import CLOCK_FIELDS


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that came out otherwise."""

    epoch: int
    """Epochs finished when it happened, as the event says."""
    quantity: str
    """Field of the event, e.g. "validation_loss" or "SlotMeasured block1: alpha"; "event" where another thing
    happened altogether."""
    recorded: JsonValue
    replayed: JsonValue

    @property
    def text(self) -> str:
        """One line for a person; of two numbers also how far apart they are, for rounding shows there."""
        one, other, apart = self.recorded, self.replayed, ""
        if isinstance(one, float) and isinstance(other, float) and math.isfinite(one - other):
            apart = f" (relative difference {abs(one - other) / max(abs(one), abs(other)):.1e})"
        return (
            f"differs at epoch {self.epoch}: {self.quantity} is {_show(one)} on record, {_show(other)} in "
            f"the replay{apart}"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain data with stable keys."""
        return {
            "epoch": self.epoch,
            "quantity": self.quantity,
            "recorded": self.recorded,
            "replayed": self.replayed,
        }


@final
class Comparison:
    """Takes a replay's events as a sink and holds each against its place in the record."""

    def __init__(self, recorded: Iterable[Event], on_epoch: Callable[[int], None] | None = None) -> None:
        """Start at the beginning of the record.

        Args:
            recorded: What the host told, in order.
            on_epoch: Told the number of every epoch that came out as on record.
        """
        self._open = deque(recorded)
        self._on_epoch = on_epoch
        self.difference: Difference | None = None
        self.num_epochs = 0
        """Epochs that came out as on record."""
        self.num_decisions = 0
        self.is_result_compared = False

    def emit(self, event: Event) -> None:
        """Compare one event; nothing is compared after the first difference or beyond the record."""
        if not self.is_open:
            return
        recorded = self._open.popleft()
        self.difference = find_difference(recorded, event)
        if self.difference is None:
            self.num_decisions += isinstance(event, DecisionMade)
            self.is_result_compared = isinstance(event, RunFinished)
            if isinstance(event, EpochCompleted):
                self.num_epochs = event.epoch
                if self._on_epoch is not None:
                    self._on_epoch(event.epoch)

    @property
    def is_open(self) -> bool:
        """Whether something is left to compare."""
        return self.difference is None and bool(self._open)

    @property
    def next_decision(self) -> DecisionMade | None:
        """What was decided at this place, if a decision is what comes next."""
        if self.difference is not None or not self._open:
            return None
        event = self._open[0]
        return event if isinstance(event, DecisionMade) else None

    def expect_decision(self, epoch: int) -> None:
        """Note a difference where the record goes on with something else than a decision."""
        if self.is_open and self.next_decision is None:
            self.difference = Difference(
                epoch=epoch, quantity="event", recorded=_name(self._open[0]), replayed="the next decision"
            )


def find_difference(recorded: Event, replayed: Event) -> Difference | None:
    """Return the first quantity in which two events differ; NaN equals NaN, clocks do not count.

    Of a decision only its fate is compared: the rest is what was asked for.
    """
    if recorded.kind != replayed.kind:
        return Difference(
            epoch=recorded.epoch, quantity="event", recorded=_name(recorded), replayed=_name(replayed)
        )
    skipped = CLOCK_FIELDS
    if isinstance(recorded, DecisionMade):
        skipped = frozenset(item.name for item in fields(recorded)) - {"epoch", "refusal"}
    old, new = _leaves(recorded, skipped), _leaves(replayed, skipped)
    for path in (*old, *(path for path in new if path not in old)):
        if not _is_same(old.get(path), new.get(path)):
            return Difference(
                epoch=recorded.epoch,
                quantity=path if isinstance(recorded, EpochCompleted) else f"{_name(recorded)}: {path}",
                recorded=old.get(path),
                replayed=new.get(path),
            )
    return None


def _leaves(event: Event, skipped: frozenset[str]) -> dict[str, JsonValue]:
    return {
        path: value
        for item in fields(event)
        if item.name not in skipped
        for path, value in _walk(getattr(event, item.name), item.name)
    }


def _walk(value: JsonValue, path: str) -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, Mapping):
        for key, entry in sorted(value.items()):
            yield from _walk(entry, f"{path}/{key}")
    elif isinstance(value, tuple | list):
        for place, entry in enumerate(value):
            yield from _walk(entry, f"{path}/{place}")
    else:
        yield path, value


def _is_same(one: JsonValue, other: JsonValue) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other


def _name(event: Event) -> str:
    slot = getattr(event, "slot", None)
    return event.kind if slot is None else f"{event.kind} {slot}"


def _show(value: JsonValue) -> str:
    return "nothing" if value is None else str(value)
