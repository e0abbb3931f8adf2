"""One look at a run in progress: how far it is, what lives in it, what happened last, what looks wrong.

Pure functions over records and the lines that they were told as; nothing here reads, formats or draws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

from esper.leyline import (
    AnomalyFound,
    EpisodeFinished,
    EpochCompleted,
    Event,
    JsonValue,
    PolicyTrainingStarted,
    PolicyUpdated,
    RolledBack,
    RunFinished,
    RunStarted,
    SlotMeasured,
)
from esper.nissa.analytics.history import (
    MetricCurves,
    StageSpan,
    compute_curves,
    compute_fates,
    compute_strips,
    effective_events,
)
from esper.nissa.analytics.training import (
    TrainingSummary,
    compute_training_summary,
    curves_to_plain,
    training_to_plain,
)
from esper.nissa.codec import to_plain_tree
from esper.nissa.line import Line
from esper.nissa.record import Record

RECENT_EPOCHS = 8
"""Epochs or rounds whose mean length predicts the rest: few enough to follow growth, enough for one slow."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSeed:
    """A seed that is neither kept nor removed yet."""

    seed_id: str
    slot: str
    blueprint: str
    stage: str
    start_epoch: int
    num_params: int
    alpha: float | None = None
    """In [0, 1], as last measured; None = not yet."""
    contribution: float | None = None
    """As last measured, in the units that the gates use; None = not yet."""
    contribution_error: float | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedHost:
    """One host that grows."""

    instance: int
    """Which one of a fleet; 0 where there is but one."""
    epoch: int
    """Epochs finished, after a rollback those that hold."""
    host_params: int
    total_params: int
    curves: MetricCurves
    strips: Mapping[str, tuple[StageSpan, ...]]
    """Slot id -> its stages so far."""
    seeds: tuple[LiveSeed, ...] = ()
    num_fossilized: int = 0
    num_culled: int = 0
    num_rollbacks: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedEnvironment:
    """One environment of a training by the host that it ended last."""

    env_id: int
    num_episodes: int
    reason: str
    """"horizon", or what the governor found."""
    total_reward: float
    metric: float
    never_metric: float
    """Of the same host that never grew."""
    num_fossils: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedEvent:
    """Something that happened, as one clean line."""

    epoch: int
    """Epochs, or rounds of a training, finished then."""
    text: str
    tone: str
    """Value of a `Tone`: how it should look."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RedFlag:
    """Something that a person should look at, once for all its times."""

    kind: str
    """Name of the event, e.g. "RolledBack"."""
    text: str
    """As told the last time."""
    first_epoch: int
    last_epoch: int
    num_times: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchView:
    """One look at a run."""

    kind: str = ""
    """"host", "training", or "" before the first event."""
    task: str = ""
    policy: str = ""
    """Empty for a training, whose events do not name its learner."""
    seed: int = 0
    status: str = "unfinished"
    """Reason of the last RunFinished; "unfinished" = none since the last start."""
    num_done: int = 0
    """Epochs finished, or rounds of a training."""
    num_planned: int = 0
    eta_seconds: float | None = None
    """From the last epoch or round to the end, by the length of recent ones; None = not known, or over."""
    last_time: float | None = None
    """Of the last event, seconds since 1970-01-01 UTC."""
    hosts: tuple[WatchedHost, ...] = ()
    training: TrainingSummary | None = None
    environments: tuple[WatchedEnvironment, ...] = ()
    events: tuple[WatchedEvent, ...] = ()
    """Oldest first; points of curves are not among them."""
    flags: tuple[RedFlag, ...] = ()
    num_bad_lines: int = 0
    """Lines of the event files that could not be read."""


def compute_view(
    records: Sequence[Record],
    *,
    told: Iterable[tuple[Record, Line]] = (),
    warned: Iterable[tuple[Record, Line]] = (),
    last_time: float | None = None,
    num_bad_lines: int = 0,
) -> WatchView:
    """Return one look at a run.

    Args:
        records: Of the run, superseded ones left out; none before the first event.
        told: Events with what they say, oldest first.
        warned: Those of them that are red flags.
        last_time: When the last event came.
        num_bad_lines: Lines that could not be read.

    Example:
        >>> view = compute_view(log.records)
        >>> view.status, view.num_done, view.num_planned
        ('horizon', 8, 8)
    """
    start, finish = _ends(records)
    if isinstance(start, PolicyTrainingStarted):
        view = _view_training(records, start)
    elif isinstance(start, RunStarted):
        view = _view_hosts(records, start)
    else:
        view = WatchView()
    left = view.num_planned - view.num_done
    return replace(
        view,
        status=view.status if finish is None else finish.reason,
        eta_seconds=_estimate(records, left) if finish is None else None,
        last_time=last_time,
        events=tuple(
            WatchedEvent(epoch=record.event.epoch, text=line.text, tone=line.tone.value)
            for record, line in told
        ),
        flags=tally_flags(warned),
        num_bad_lines=num_bad_lines,
    )


def tally_flags(warned: Iterable[tuple[Record, Line]]) -> tuple[RedFlag, ...]:
    """Return every sign of trouble once, in the order in which they came first.

    Args:
        warned: Events with what they say, oldest first.

    Example:
        >>> found = [AnomalyFound(epoch=e, name="kl", value=e, threshold=1, advice="") for e in (3, 5)]
        >>> warned = [(replace(log.records[0], event=event), Line(text="kl")) for event in found]
        >>> [(flag.text, flag.first_epoch, flag.last_epoch, flag.num_times) for flag in tally_flags(warned)]
        [('kl', 3, 5, 2)]
    """
    found: dict[tuple[str, str], RedFlag] = {}
    for record, line in warned:
        event = record.event
        key = (event.kind, event.name if isinstance(event, AnomalyFound) else line.text)
        before = found.get(key)
        found[key] = RedFlag(
            kind=event.kind,
            text=line.text,
            first_epoch=event.epoch if before is None else before.first_epoch,
            last_epoch=event.epoch,
            num_times=1 if before is None else before.num_times + 1,
        )
    return tuple(found.values())


def watch_to_plain(view: WatchView) -> dict[str, JsonValue]:
    """Return a look as JSON data; curves of a training are its rounds, numbers not finite become null.

    Example:
        >>> plain = watch_to_plain(compute_view(log.records))
        >>> plain["status"], plain["num_done"]
        ('horizon', 8)
    """
    facts = asdict(replace(view, training=None))
    if view.training is not None:
        facts["training"] = {
            **dict(_as_mapping(training_to_plain(view.training))),
            "rounds": curves_to_plain(view.training.curves),
        }
    return dict(_as_mapping(to_plain_tree(facts).value))


def _as_mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _view_training(records: Sequence[Record], start: PolicyTrainingStarted) -> WatchView:
    summary = compute_training_summary(records)
    return WatchView(
        kind="training",
        task=start.task,
        seed=start.seed,
        num_done=summary.num_rounds,
        num_planned=start.num_rounds,
        training=summary,
        environments=_last_episodes(record.event for record in records),
    )


def _view_hosts(records: Sequence[Record], start: RunStarted) -> WatchView:
    instances = sorted({record.event.instance for record in records})
    hosts = tuple(_view_host(records, instance, start) for instance in instances)
    return WatchView(
        kind="host",
        task=start.task,
        policy=start.policy,
        seed=start.seed,
        num_done=hosts[0].epoch,
        num_planned=start.horizon_epochs,
        hosts=hosts,
    )


def _view_host(records: Sequence[Record], instance: int, start: RunStarted) -> WatchedHost:
    events = effective_events(records, instance)
    curves, fates, strips = compute_curves(events), compute_fates(events), compute_strips(events)
    measured = {event.seed_id: event for event in events if isinstance(event, SlotMeasured)}
    host_params = next((e.host_params for e in events if isinstance(e, RunStarted)), start.host_params)
    seeds = []
    for fate in fates:
        if fate.outcome != "live":
            continue
        last, spans = measured.get(fate.seed_id), strips.get(fate.slot, ())
        seeds.append(
            LiveSeed(
                seed_id=fate.seed_id,
                slot=fate.slot,
                blueprint=fate.blueprint,
                stage=spans[-1].stage if spans else "",
                start_epoch=fate.start_epoch,
                num_params=fate.num_params,
                alpha=None if last is None else last.alpha,
                contribution=fate.contribution,
                contribution_error=fate.contribution_error,
            )
        )
    return WatchedHost(
        instance=instance,
        epoch=curves.epochs[-1] if curves.epochs else 0,
        host_params=host_params,
        total_params=curves.total_params[-1] if curves.total_params else host_params,
        curves=curves,
        strips=strips,
        seeds=tuple(seeds),
        num_fossilized=sum(fate.outcome == "fossilized" for fate in fates),
        num_culled=sum(fate.outcome == "culled" for fate in fates),
        num_rollbacks=sum(isinstance(event, RolledBack) for event in events),
    )


def _last_episodes(events: Iterable[Event]) -> tuple[WatchedEnvironment, ...]:
    counts: dict[int, int] = {}
    last: dict[int, EpisodeFinished] = {}
    for event in events:
        if isinstance(event, EpisodeFinished):
            counts[event.env_id] = counts.get(event.env_id, 0) + 1
            last[event.env_id] = event
    return tuple(
        WatchedEnvironment(
            env_id=env_id,
            num_episodes=counts[env_id],
            reason=last[env_id].reason,
            total_reward=last[env_id].total_reward,
            metric=last[env_id].metric,
            never_metric=last[env_id].never_metric,
            num_fossils=last[env_id].num_fossils,
        )
        for env_id in sorted(last)
    )


def _ends(records: Iterable[Record]) -> tuple[RunStarted | PolicyTrainingStarted | None, RunFinished | None]:
    """Return the last start, and the finish after it; those of the first host of a fleet."""
    start: RunStarted | PolicyTrainingStarted | None = None
    finish: RunFinished | None = None
    first: int | None = None
    for record in records:
        event = record.event
        if isinstance(event, RunStarted | PolicyTrainingStarted):
            first = event.instance if first is None else first
            if event.instance == first:
                start, finish = event, None
        elif isinstance(event, RunFinished) and event.instance == first:
            finish = event
    return start, finish


def _estimate(records: Sequence[Record], num_left: int) -> float | None:
    """Predict the seconds to the end from the mean length of recent epochs or rounds of this attempt."""
    if not records or num_left <= 0:
        return None
    attempt, first = records[-1].attempt, None
    times: deque[float] = deque(maxlen=RECENT_EPOCHS + 1)
    for record in records:
        event = record.event
        if record.attempt != attempt or not isinstance(event, _MARKS):
            continue
        first = event.instance if first is None else first
        if event.instance == first:
            times.append(record.wall_time)
    if len(times) < 2:
        return None
    return num_left * max(0.0, times[-1] - times[0]) / (len(times) - 1)


_MARKS = (RunStarted, PolicyTrainingStarted, EpochCompleted, PolicyUpdated)
"""Events between which epochs and rounds lie."""
