"""The fixed-schedule baseline: the same operations at the same epochs, whatever the host does.

It looks at legality only, never at a loss or a contribution: an entry that is not legal yet is tried again
at each decision until it is, or until its last epoch has passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

from esper.leyline import (
    Action,
    ConfigError,
    Decision,
    ForeignCheckpointError,
    LifecycleOp,
    Observation,
    SlotReport,
    refuse_action,
)
from esper.tamiyo.heuristic import find_rotation
from esper.tamiyo.heuristic_config import HeuristicConfig
from esper.tamiyo.masks import choosable_ops, growable_blueprints
from esper.tamiyo.memory import read_int, read_ints, read_keys


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledAction:
    """One entry of a schedule.

    Example:
        ScheduledAction(epoch=5, action=Action(op=LifecycleOp.GERMINATE, slot="block2", blueprint="norm"))
    """

    epoch: int
    """From this interval on, >= 0."""
    action: Action
    """A slot of None stands for the first one where the operation is legal; a blueprint of None for the next
    in the slot's rotation."""
    until_epoch: int | None = None
    """Last interval at which it is tried, >= `epoch`; None = to the end."""

    def __post_init__(self) -> None:
        """Check the epochs.

        Raises:
            ConfigError: If the entry begins before 0 or ends before it begins.
        """
        if self.epoch < 0:
            raise ConfigError(f"schedule entry epoch={self.epoch}: must be >= 0")
        if self.until_epoch is not None and self.until_epoch < self.epoch:
            raise ConfigError(f"schedule entry until_epoch={self.until_epoch}: must be >= epoch={self.epoch}")


@final
class FixedSchedulePolicy:
    """Works through a schedule, one entry a decision; due entries are tried in the order given.

    An entry that is not legal yet does not hold up the ones after it.
    """

    def __init__(self, schedule: Iterable[ScheduledAction], config: HeuristicConfig | None = None) -> None:
        """Start at the beginning.

        Args:
            schedule: The entries.
            config: Where the blueprint rotations come from; None = the default ones.
        """
        self._schedule = tuple(schedule)
        self._config = HeuristicConfig() if config is None else config
        self.reset()

    def reset(self) -> None:
        """Begin the schedule anew."""
        self._open = tuple(range(len(self._schedule)))
        self._num_germinations = 0

    def decide(self, observation: Observation) -> Decision:
        """Answer with the first due entry that is legal now."""
        epoch = observation.signals.epoch
        self._open = tuple(
            place
            for place in self._open
            if (last := self._schedule[place].until_epoch) is None or epoch <= last
        )
        refusals: list[str] = []
        for place in self._open:
            entry = self._schedule[place]
            if epoch < entry.epoch:
                continue
            action = self._resolve(entry.action, observation)
            refusal = refuse_action(action, observation)
            if refusal is None:
                self._open = tuple(other for other in self._open if other != place)
                self._num_germinations += action.op is LifecycleOp.GERMINATE
                return Decision(action=action, reason=f"scheduled from epoch {entry.epoch} on")
            refusals.append(f"{action.op.value} of epoch {entry.epoch}: {refusal}")
        if refusals:
            return Decision(reason=f"wait: {refusals[0]}")
        upcoming = [self._schedule[place].epoch for place in self._open]
        return Decision(
            reason=f"wait: the next entry is due at epoch {min(upcoming)}"
            if upcoming
            else "wait: all is done"
        )

    def _resolve(self, action: Action, observation: Observation) -> Action:
        """Fill in the slot and the blueprint that an entry leaves open, as far as any is legal."""
        reports = [r for r in observation.slots if action.slot in (None, r.slot)]
        legal = [report for report in reports if action.op in choosable_ops(report, observation)]
        if action.op is LifecycleOp.WAIT or not legal:
            return action
        blueprint = action.blueprint
        if action.op is LifecycleOp.GERMINATE and blueprint is None:
            blueprint = self._next_blueprint(legal[0], observation)
        return replace(action, slot=legal[0].slot, blueprint=blueprint)

    def _next_blueprint(self, report: SlotReport, observation: Observation) -> str | None:
        """Return the first affordable blueprint at or after the place of this germination in the rotation."""
        order = find_rotation(report, observation, self._config)
        start = self._num_germinations % len(order)
        legal = growable_blueprints(report, observation)
        return next((name for name in (*order[start:], *order[:start]) if name in legal), None)

    def state(self) -> dict[str, object]:
        """Return which entries are still open, as plain data."""
        return {
            "num_entries": len(self._schedule),
            "open": list(self._open),
            "num_germinations": self._num_germinations,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Put back what `state` returned.

        Raises:
            ForeignCheckpointError: If it is malformed or belongs to a schedule of another length.
        """
        read_keys("schedule", state, ("num_entries", "open", "num_germinations"))
        num_entries, places = read_int(state, "num_entries"), read_ints(state, "open")
        num_germinations = read_int(state, "num_germinations")
        if num_entries != len(self._schedule) or not set(places) <= set(range(num_entries)):
            raise ForeignCheckpointError(
                f"saved memory of policy 'schedule' is of {num_entries} entries with {list(places)} open; "
                f"this schedule has {len(self._schedule)}"
            )
        self._open, self._num_germinations = places, num_germinations


def build_even_schedule(config: HeuristicConfig) -> tuple[ScheduledAction, ...]:
    """Return the schedule that the heuristic's clock would follow if nothing were measured.

    One germination per interval of the calendar, as many as the longest rotation has blueprints, each with
    one ADVANCE after the incubation and one FOSSILIZE after the blend, in the first slots where they are
    legal. What no gate lets through stays until the horizon removes it.

    Example:
        >>> [entry.action.op.value for entry in build_even_schedule(HeuristicConfig())][:3]
        ['GERMINATE', 'ADVANCE', 'FOSSILIZE']
    """
    rotations = (config.blueprints_2d, config.blueprints_sequence, config.blueprints_flat)
    rounds = max(1, *(len(names) for names in rotations))
    entries: list[ScheduledAction] = []
    for turn in range(rounds):
        birth = config.first_germination_epoch + turn * config.germination_interval_epochs
        blend = birth + config.min_incubation_epochs
        germinate = Action(
            op=LifecycleOp.GERMINATE,
            blend=config.blend,
            curve=config.curve,
            tempo_epochs=config.tempo_epochs,
        )
        entries += [
            ScheduledAction(epoch=birth, action=germinate),
            ScheduledAction(epoch=blend, action=Action(op=LifecycleOp.ADVANCE)),
            ScheduledAction(epoch=blend + config.tempo_epochs, action=Action(op=LifecycleOp.FOSSILIZE)),
        ]
    return tuple(entries)
