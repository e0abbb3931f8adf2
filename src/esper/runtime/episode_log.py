"""What a growth run did, read from its event log: whole and undamaged, or refused.

Knows the files of a run and what an action needs; builds no host. Never writes: the run may still go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

from esper.leyline import (
    Action,
    AlphaCurve,
    BlendForm,
    ConfigError,
    DataError,
    Decision,
    DecisionMade,
    EpochCompleted,
    Event,
    LifecycleOp,
    RunDirectoryError,
    RunFinished,
    RunStarted,
)
from esper.nissa import BOOKKEEPING_KINDS, Record, read_run

_NOT_REPEATED = BOOKKEEPING_KINDS | {"Notice", "RewardGranted"}
"""Events about the process that ran, for a replay is another one, and what was worked out from others."""
_USED_FIELDS: Mapping[LifecycleOp, tuple[str, ...]] = MappingProxyType(
    {
        LifecycleOp.GERMINATE: ("blend", "curve", "tempo_epochs", "alpha_target"),
        LifecycleOp.SET_ALPHA: ("curve", "tempo_epochs", "alpha_target"),
        LifecycleOp.CULL: ("curve", "tempo_epochs"),
    }
)
"""What an operation needs beyond slot and blueprint; the others need nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEpisode:
    """What a run did, in order: its start, everything that its host told, its end if it has come to one."""

    events: tuple[Event, ...]

    @property
    def num_epochs(self) -> int:
        """Epochs finished."""
        return max((event.epoch for event in self.events if isinstance(event, EpochCompleted)), default=0)


def read_episode(run: Path) -> RecordedEpisode:
    """Read what can be repeated of a run; what a resumed attempt went back before is left out.

    Raises:
        RunDirectoryError: If there is no event file, or it cannot be read, or several runs wrote there.
        ConfigError: If it is the log of something else, or no finished epoch is on record.
        DataError: If lines are damaged or missing, or a decision is not there in full.
    """
    try:
        log = read_run(run)
    except OSError as error:
        raise RunDirectoryError(f"{run}: its event log cannot be read: {error.strerror or error}") from error
    if log.bad_lines:
        bad = log.bad_lines[0]
        raise DataError(f"{run / bad.file}:{bad.line}: {bad.problem}; only a whole event log can be replayed")
    num_ranks = len({header.rank for header in log.headers})
    if num_ranks > 1:
        raise ConfigError(f"{run}: {num_ranks} processes wrote it; one host's run can be replayed")
    if log.num_dropped:
        raise DataError(
            f"{run}: {log.num_dropped} samples were dropped to keep its event files within "
            "telemetry.max_events_mb; only a whole event log can be replayed"
        )
    events = [record.event for record in log.records]
    if not events or not isinstance(events[0], RunStarted):
        what = "is empty" if not events else f"begins with {events[0].kind}"
        raise ConfigError(f"{run}: its event log {what}; expected that of a growth run, from its RunStarted")
    _refuse_gaps(run, log.records)
    kept = [events[0], *(event for event in events if _is_repeated(event))]
    if isinstance(events[-1], RunFinished) and events[-1].reason != "interrupted":
        kept.append(events[-1])
    episode = RecordedEpisode(events=tuple(kept))
    _refuse_unplayable(run, episode)
    return episode


def read_decision(event: DecisionMade) -> Decision:
    """Return the decision that an event tells of.

    Raises:
        DataError: If it lacks a field that its operation uses, or holds an unknown value.
    """
    where, defaults = f"decision {event.op} at epoch {event.epoch}", Action()
    try:
        op = LifecycleOp(event.op)
        lacking = [name for name in _USED_FIELDS.get(op, ()) if getattr(event, name) is None]
        if lacking:
            raise DataError(
                f"{where}: its {', '.join(lacking)} are not on record, so it cannot be repeated; runs of "
                "this version have them"
            )
        action = Action(
            op=op,
            slot=event.slot,
            blueprint=event.blueprint,
            blend=defaults.blend if event.blend is None else BlendForm(event.blend),
            curve=defaults.curve if event.curve is None else AlphaCurve(event.curve),
            tempo_epochs=defaults.tempo_epochs if event.tempo_epochs is None else event.tempo_epochs,
            alpha_target=defaults.alpha_target if event.alpha_target is None else event.alpha_target,
        )
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return Decision(action=action, reason=event.reason, confidence=event.confidence)


def _is_repeated(event: Event) -> bool:
    return event.kind not in _NOT_REPEATED and not isinstance(event, RunStarted | RunFinished)


def _refuse_unplayable(run: Path, episode: RecordedEpisode) -> None:
    if not episode.num_epochs:
        raise ConfigError(f"{run}: no finished epoch is on record, so there is nothing to compare")
    decisions = [event for event in episode.events if isinstance(event, DecisionMade)]
    if not decisions:
        raise DataError(f"{run}: no decision is on record, so the run cannot be repeated")
    for event in decisions:
        try:
            read_decision(event)
        except DataError as error:
            raise DataError(f"{run}: {error}") from error


def _refuse_gaps(run: Path, records: Sequence[Record]) -> None:
    """Refuse a log from which records are missing; a resumed attempt says where it goes on."""
    last, attempt = -1, 0
    for record in records:
        event, is_next = record.event, record.seq == last + 1
        if record.attempt != attempt:
            is_next = isinstance(event, RunStarted) and event.rewinds_to_seq == last
        if not is_next:
            raise DataError(
                f"{run}: the event log does not go on after record {last} of attempt {attempt}; only a whole "
                "one can be replayed"
            )
        last, attempt = record.seq, record.attempt
