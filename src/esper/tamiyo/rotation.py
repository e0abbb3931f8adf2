"""Which blueprint comes next: rotation with penalties that decay, fed by every cull however it came about.

```
observe    a tracked seed has vanished or is on its way out > its blueprint is penalised
choose     next in rotation whose penalty is below the limit, else the least penalised
advance    a germination was decided: the rotation moves on, all penalties shrink
```
Penalties shrink per decision to germinate, not per interval: an embargo lasts longer than a few halvings, so
that a penalty that fades with time is gone before it could ever matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from esper.leyline import ForeignCheckpointError, SlotReport
from esper.tamiyo.memory import read_keys, read_list, read_numbers


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyRule:
    """How a cull counts against its blueprint."""

    per_cull: float = 2.0
    """Added for each cull."""
    decay: float = 0.5
    """Factor per decision to germinate, in [0, 1)."""
    floor: float = 0.1
    """A penalty below it is dropped."""
    limit: float = 3.0
    """A blueprint with at least this much is skipped."""


@final
class BlueprintRotation:
    """Remembers who lives where, what was culled, and whose turn it is."""

    def __init__(self, rule: PenaltyRule) -> None:
        """Start without penalties, each list at its first blueprint."""
        self._rule = rule
        self._penalties: dict[str, float] = {}
        self._turns: dict[str, str] = {}
        self._tracked: dict[str, tuple[str, str]] = {}

    @property
    def penalties(self) -> Mapping[str, float]:
        """Blueprint -> present penalty; absent = 0."""
        return dict(self._penalties)

    def observe(self, reports: Sequence[SlotReport]) -> int:
        """Take the slots as they are now and penalise what was culled since the last call.

        A cull is a tracked seed that is gone, or whose removal has begun; by whom makes no difference.

        Returns:
            Number of culls found.
        """
        num_culls = 0
        for report in reports:
            known = self._tracked.get(report.slot)
            is_same = known is not None and report.seed_id == known[0]
            if known is not None and (not is_same or report.is_cull_pending):
                self._penalties[known[1]] = self._penalties.get(known[1], 0.0) + self._rule.per_cull
                num_culls += 1
            if report.stage.is_live and not report.is_cull_pending and report.seed_id and report.blueprint:
                self._tracked[report.slot] = (report.seed_id, report.blueprint)
            else:
                self._tracked.pop(report.slot, None)
        return num_culls

    def choose(self, layout: str, order: Sequence[str], legal: Collection[str]) -> str:
        """Return the blueprint whose turn it is: the next legal one that is not skipped for its penalty.

        If every legal one is to be skipped, the one with the least penalty is returned, the earlier in turn
        among equals.

        Args:
            layout: Name of the list; each layout has its own rotation.
            order: The whole rotation.
            legal: Those that may be germinated now; at least one of `order`.
        """
        last = self._turns.get(layout)
        start = order.index(last) + 1 if last in order else 0
        turn = [name for name in (*order[start:], *order[:start]) if name in legal]
        allowed = [name for name in turn if self._penalties.get(name, 0.0) < self._rule.limit]
        return allowed[0] if allowed else min(turn, key=lambda name: self._penalties[name])

    def advance(self, layout: str, blueprint: str) -> None:
        """Note a decision to germinate `blueprint`: the turn passes on and every penalty decays."""
        self._turns[layout] = blueprint
        decayed = {name: penalty * self._rule.decay for name, penalty in self._penalties.items()}
        self._penalties = {name: value for name, value in decayed.items() if value >= self._rule.floor}

    def state(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "penalties": dict(self._penalties),
            "turns": [[layout, name] for layout, name in self._turns.items()],
            "tracked": [[slot, *seed] for slot, seed in self._tracked.items()],
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If a field is missing or malformed; nothing is changed then.
        """
        read_keys("blueprint rotation", state, ("penalties", "turns", "tracked"))
        penalties = read_numbers(state, "penalties")
        turns = {row[0]: row[1] for row in _read_rows(state, "turns", 2)}
        tracked = {row[0]: (row[1], row[2]) for row in _read_rows(state, "tracked", 3)}
        self._penalties, self._turns, self._tracked = penalties, turns, tracked


def _read_rows(state: Mapping[str, object], key: str, width: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for item in read_list(state, key):
        row = [text for text in item if isinstance(text, str)] if isinstance(item, list | tuple) else []
        if len(row) != width or not isinstance(item, list | tuple) or len(item) != width:
            raise ForeignCheckpointError(f"saved blueprint rotation, field {key!r}: malformed row {item!r}")
        rows.append(row)
    return rows
