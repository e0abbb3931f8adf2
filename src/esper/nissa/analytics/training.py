"""The training of a policy in numbers: curves per round, what was carried out, signs of trouble.

Pure functions over the records of one training; nothing here formats or draws. A round that a resume went
back before is not seen: the reader leaves it out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import final

from esper.leyline import (
    AnomalyFound,
    EpisodeFinished,
    Event,
    JsonValue,
    Notice,
    PolicyTrainingStarted,
    PolicyUpdated,
    RunFinished,
)
from esper.nissa.codec import SCHEMA_VERSION, to_plain_tree
from esper.nissa.record import Record

CURVES: Mapping[str, str] = MappingProxyType(
    {
        "return": "rollout/ep_rew_mean",
        "gain": "rollout/gain_mean",
        "fossils": "rollout/fossils_mean",
        "fossilize_rate": "rollout/fossilize_rate",
        "flops_ratio": "rollout/flops_ratio_mean",
        "wait_share": "rollout/op_share/WAIT",
        "op_entropy": "train/entropy/op",
        "explained_variance": "train/explained_variance",
        "time_explained_variance": "rollout/time_explained_variance",
        "approx_kl": "train/approx_kl",
        "clip_fraction": "train/clip_fraction",
    }
)
"""Curve -> the metric of a round that it is made of."""

MAX_WINDOW = 5
"""Rounds at either end that are averaged to tell how a training began and ended: those of `training.json`."""

_OP_SHARE = "rollout/op_share/"
_QUARANTINED = "rollout/num_quarantined"
_WENT_WELL = "horizon"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurves:
    """One value per finished round, all tuples of the same length."""

    rounds: tuple[int, ...] = ()
    """From 1, rising."""
    num_env_steps: tuple[int, ...] = ()
    """Since training began."""
    num_episodes: tuple[int, ...] = ()
    """Hosts that ended in the round."""
    num_quarantined: tuple[int, ...] = ()
    """Rows taken out of the round for what their environment reported."""
    metrics: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Name of `CURVES` -> values; None = not known in that round."""
    op_shares: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Operation -> its share of the decisions that had a choice, in [0, 1]; None = there was no such one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyTally:
    """One sign of trouble over all rounds in which it was found."""

    name: str
    num_rounds: int
    first_round: int
    last_round: int
    value: float
    """In the last of these rounds."""
    threshold: float
    advice: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundNotice:
    """A warning for a person: a row in quarantine, a setting without effect."""

    round: int
    """Rounds finished when it was told."""
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """The training of one policy."""

    status: str = "unfinished"
    """Reason of the last RunFinished ("horizon", "interrupted"); "unfinished" = none since the last start."""
    task: str = ""
    seed: int = 0
    num_envs: int = 0
    horizon_epochs: int = 0
    """Epochs of every host."""
    num_parameters: int = 0
    """Of the policy."""
    planned_rounds: int = 0
    num_rounds: int = 0
    """Rounds finished."""
    num_env_steps: int = 0
    num_episodes: int = 0
    """Hosts that ended in these rounds."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """What the governor found -> hosts that ended by it."""
    num_quarantined: int = 0
    ops: Mapping[str, int] = field(default_factory=dict)
    """Operations carried out on these hosts, by name."""
    anomalies: tuple[AnomalyTally, ...] = ()
    """In the order in which they were found first."""
    notices: tuple[RoundNotice, ...] = ()
    seconds: float = 0.0
    """Between the first and the last record of each attempt, summed; what was superseded is left out."""
    curves: TrainingCurves = field(default_factory=TrainingCurves)

    @property
    def last_return(self) -> float | None:
        """Mean return of the episodes of the last round; None = no round, or no episode ended in it."""
        values = self.curves.metrics.get("return", ())
        return values[-1] if values else None


def is_training(records: Iterable[Record]) -> bool:
    """Whether records tell of the training of a policy.

    Example:
        >>> is_training(log.records)
        False
    """
    return any(isinstance(record.event, PolicyTrainingStarted) for record in records)


def compute_training_summary(records: Sequence[Record]) -> TrainingSummary:
    """Sum up the training of one policy; works on one that has just begun too.

    Args:
        records: As a reader returns them.

    Example:
        >>> compute_training_summary(()).status
        'unfinished'
    """
    events = [record.event for record in records]
    curves = compute_training_curves(events)
    episodes = [
        event for event in events if isinstance(event, EpisodeFinished) and event.epoch in curves.rounds
    ]
    start, finish = _ends(events)
    ops: Counter[str] = Counter()
    for episode in episodes:
        ops.update(episode.ops)
    found = [RoundNotice(round=e.epoch, text=e.text) for e in events if isinstance(e, Notice)]
    return TrainingSummary(
        status="unfinished" if finish is None else finish.reason,
        task="" if start is None else start.task,
        seed=0 if start is None else start.seed,
        num_envs=0 if start is None else start.num_envs,
        horizon_epochs=0 if start is None else start.horizon_epochs,
        num_parameters=0 if start is None else start.num_parameters,
        planned_rounds=0 if start is None else start.num_rounds,
        num_rounds=curves.rounds[-1] if curves.rounds else 0,
        num_env_steps=curves.num_env_steps[-1] if curves.num_env_steps else 0,
        num_episodes=len(episodes),
        failures=dict(Counter(e.reason for e in episodes if e.reason != _WENT_WELL)),
        num_quarantined=sum(curves.num_quarantined),
        ops=dict(ops),
        anomalies=tally_anomalies(events),
        notices=tuple(dict.fromkeys(found)),  # a resumed attempt tells those of the settings again
        seconds=_seconds(records),
        curves=curves,
    )


def compute_training_curves(events: Iterable[Event]) -> TrainingCurves:
    """Return one value per finished round; a repeated round counts as last told.

    Example:
        >>> compute_training_curves([]).rounds
        ()
    """
    updates: dict[int, PolicyUpdated] = {}
    num_episodes: Counter[int] = Counter()
    for event in events:
        if isinstance(event, PolicyUpdated):
            updates[event.epoch] = event
        elif isinstance(event, EpisodeFinished):
            num_episodes[event.epoch] += 1
    rows = [updates[number] for number in sorted(updates)]
    ops = sorted({name for row in rows for name in row.metrics if name.startswith(_OP_SHARE)})

    def follow(metric: str) -> tuple[float | None, ...]:
        return tuple(row.metrics.get(metric) for row in rows)

    return TrainingCurves(
        rounds=tuple(row.epoch for row in rows),
        num_env_steps=tuple(row.num_env_steps for row in rows),
        num_episodes=tuple(num_episodes[row.epoch] for row in rows),
        num_quarantined=tuple(int(row.metrics.get(_QUARANTINED, 0)) for row in rows),
        metrics={name: follow(metric) for name, metric in CURVES.items()},
        op_shares={op.removeprefix(_OP_SHARE): follow(op) for op in ops},
    )


def tally_anomalies(events: Iterable[Event]) -> tuple[AnomalyTally, ...]:
    """Return every sign of trouble once, with the rounds in which it was found."""
    found: dict[str, dict[int, AnomalyFound]] = defaultdict(dict)
    for event in events:
        if isinstance(event, AnomalyFound):
            found[event.name][event.epoch] = event
    return tuple(
        AnomalyTally(
            name=name,
            num_rounds=len(by_round),
            first_round=min(by_round),
            last_round=max(by_round),
            value=by_round[max(by_round)].value,
            threshold=by_round[max(by_round)].threshold,
            advice=by_round[max(by_round)].advice,
        )
        for name, by_round in found.items()
    )


def split_ends(num_rounds: int) -> tuple[slice, slice]:
    """Return the first and the last rounds that tell how a training began and ended.

    At most `MAX_WINDOW` each, and never the same round twice, but for a single one.

    Args:
        num_rounds: At least 1.

    Example:
        >>> split_ends(3)
        (slice(0, 1, None), slice(2, 3, None))
    """
    window = max(1, min(MAX_WINDOW, num_rounds // 2))
    return slice(0, window), slice(num_rounds - window, num_rounds)


def average_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are known and finite, or None.

    Example:
        >>> average_known([1.0, None, 3.0])
        2.0
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def training_to_plain(summary: TrainingSummary) -> JsonValue:
    """Return what `summary.json` holds: of curves the ends only; numbers that are not finite become null.

    Example:
        >>> training_to_plain(compute_training_summary(()))["kind"]
        'training'
    """
    facts = asdict(summary)
    curves = summary.curves
    first, last = split_ends(max(1, len(curves.rounds)))
    facts["curves"] = {
        name: {"first": average_known(values[first]), "last": average_known(values[last])}
        for name, values in curves.metrics.items()
    }
    facts["averaged_rounds"] = {"first": curves.rounds[first], "last": curves.rounds[last]}
    facts["last_return"] = summary.last_return
    tree = to_plain_tree({"schema_version": SCHEMA_VERSION, "kind": "training", **facts})
    value = dict(tree.value) if isinstance(tree.value, Mapping) else {}
    if tree.nonfinite:
        value["nonfinite"] = tree.nonfinite
    return value


def curves_to_plain(curves: TrainingCurves) -> list[dict[str, JsonValue]]:
    """Return one JSON object per round.

    Example:
        >>> curves_to_plain(compute_training_curves([]))
        []
    """
    return [
        {
            "round": number,
            "num_env_steps": curves.num_env_steps[place],
            "num_episodes": curves.num_episodes[place],
            "num_quarantined": curves.num_quarantined[place],
            **{name: values[place] for name, values in curves.metrics.items()},
            "op_shares": {op: values[place] for op, values in curves.op_shares.items()},
        }
        for place, number in enumerate(curves.rounds)
    ]


def _ends(events: Sequence[Event]) -> tuple[PolicyTrainingStarted | None, RunFinished | None]:
    """Return the last start, and the finish after it."""
    start: PolicyTrainingStarted | None = None
    finish: RunFinished | None = None
    for event in events:
        if isinstance(event, PolicyTrainingStarted):
            start, finish = event, None
        elif isinstance(event, RunFinished):
            finish = event
    return start, finish


def _seconds(records: Iterable[Record]) -> float:
    times: dict[int, list[float]] = defaultdict(list)
    for record in records:
        times[record.attempt].append(record.wall_time)
    return math.fsum(max(found) - min(found) for found in times.values())
