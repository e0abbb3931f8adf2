"""Several runs beside each other: what they were told, what came of it, how they grew, how far seeds scatter.

Pure functions over settings and records; nothing here reads, formats or draws.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import final

from esper.leyline import JsonValue
from esper.nissa.analytics.history import StageSpan, compute_strips, effective_events, total_flops
from esper.nissa.analytics.summary import compute_summary
from esper.nissa.analytics.training import (
    average_known,
    compute_training_summary,
    is_training,
    split_ends,
)
from esper.nissa.codec import SCHEMA_VERSION, to_plain_tree
from esper.nissa.record import Record

SEED_KEY = "seed"
"""The setting by which the runs of one group differ."""
WENT_WELL = "horizon"
"""Status of a run that went all its way; only such ones count in the spread of a group."""
_WITHOUT_EFFECT = ("telemetry.", "checkpoint.", "git_commit")
"""Beginnings of keys that say nothing about what a run computes."""
_OF_TRAINING = ("training.", "envs.", "fleet.")
"""Beginnings of keys that only matter where a policy is trained."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One run as it is handed in.

    Example:
        RunEntry(name="a", settings={"seed": 0, "host.epochs": 30}, records=read_run(path).records)
    """

    name: str
    """Unique among those that are compared."""
    settings: Mapping[str, JsonValue]
    """Dotted key -> value, from all files that say what was run; a key that is not set is left out."""
    records: Sequence[Record]
    state: str = ""
    """As its directory says; empty = not known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """What one run came to."""

    name: str
    kind: str
    """"host" or "training"."""
    state: str
    status: str
    """Reason of its end; "unfinished" = none yet."""
    task: str
    policy: str
    """Empty for a training, whose events do not name its learner."""
    seed: int
    num_done: int
    """Epochs finished, or rounds of a training."""
    num_planned: int
    metric_name: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What can be compared and averaged, by name: "test_accuracy", "total_params", "return", ..."""
    strips: Mapping[str, tuple[StageSpan, ...]] = field(default_factory=dict)
    """Slot id -> its stages; all runs count epochs from 0, so that they can stand below each other."""
    returns: tuple[float | None, ...] = ()
    """Of a training: mean return of the hosts that ended in each round."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """A setting that is not the same in all runs."""

    key: str
    values: tuple[JsonValue, ...]
    """One per run; None where it is not set."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over several runs."""

    mean: float
    deviation: float | None
    """Standard deviation of the runs, with n - 1; None for a single one."""
    low: float
    high: float
    num_runs: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SeedGroup:
    """Runs that differ by their seed only."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    num_unfinished: int
    """Those that have not gone all their way; they do not count in the spreads."""
    spreads: Mapping[str, Spread]
    """Name of a figure -> how it scatters."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Several runs beside each other."""

    runs: tuple[ComparedRun, ...]
    differences: tuple[SettingDifference, ...]
    """By key."""
    groups: tuple[SeedGroup, ...]
    """Those of at least two runs."""
    num_epochs: int
    """Length of the common axis of the strips."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the comparison as JSON data; numbers that are not finite become null."""
        tree = to_plain_tree({"schema_version": SCHEMA_VERSION, **asdict(self)})
        return dict(tree.value) if isinstance(tree.value, Mapping) else {}


def compare_runs(entries: Sequence[RunEntry]) -> RunComparison:
    """Compare runs; they may be of several kinds, and unfinished.

    Args:
        entries: In the order in which they are to be shown.

    Example:
        >>> entries = [RunEntry(name=name, settings={"seed": 0}, records=log.records) for name in "ab"]
        >>> comparison = compare_runs(entries)
        >>> [(run.name, run.status) for run in comparison.runs], comparison.num_epochs
        ([('a', 'horizon'), ('b', 'horizon')], 8)
    """
    runs = tuple(_sum_up(entry) for entry in entries)
    ends = [span.end_epoch for run in runs for spans in run.strips.values() for span in spans]
    planned = [run.num_planned for run in runs if run.kind == "host"]
    return RunComparison(
        runs=runs,
        differences=find_differences([entry.settings for entry in entries]),
        groups=_group(entries, runs),
        num_epochs=max([*ends, *planned], default=0),
    )


def find_differences(settings: Sequence[Mapping[str, JsonValue]]) -> tuple[SettingDifference, ...]:
    """Return the settings that differ, by key; one that is set in some runs only differs, too.

    Args:
        settings: One mapping per run.

    Example:
        >>> find_differences([{"seed": 0, "policy": "cycle"}, {"seed": 1, "policy": "cycle"}])
        (SettingDifference(key='seed', values=(0, 1)),)
    """
    keys = sorted({key for each in settings for key in each})
    rows = [SettingDifference(key=key, values=tuple(each.get(key) for each in settings)) for key in keys]
    return tuple(row for row in rows if any(value != row.values[0] for value in row.values[1:]))


def compute_spread(values: Sequence[float]) -> Spread | None:
    """Return mean, sample standard deviation, and ends of the finite ones; None where there is none.

    Example:
        >>> spread = compute_spread([0.8, 0.9, 1.0, math.nan])
        >>> round(spread.mean, 3), round(spread.deviation, 3), spread.num_runs
        (0.9, 0.1, 3)
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    squares = math.fsum((value - mean) ** 2 for value in known)
    return Spread(
        mean=mean,
        deviation=math.sqrt(squares / (len(known) - 1)) if len(known) > 1 else None,
        low=min(known),
        high=max(known),
        num_runs=len(known),
    )


def _sum_up(entry: RunEntry) -> ComparedRun:
    return _sum_up_training(entry) if is_training(entry.records) else _sum_up_host(entry)


def _sum_up_host(entry: RunEntry) -> ComparedRun:
    summary = compute_summary(entry.records)
    name = summary.metric_name
    figures = {
        f"best_{name}": summary.best_metric,
        f"last_{name}": summary.last_metric,
        "last_validation_loss": summary.last_validation_loss,
        **{f"test_{each}": value for each, value in summary.test_metrics.items()},
        "total_params": float(summary.total_params),
        "total_flops": float(total_flops(summary.flops)),
        "num_fossilized": float(summary.num_fossilized),
        "num_culled": float(summary.num_culled),
        "seconds": summary.seconds,
    }
    return ComparedRun(
        name=entry.name,
        kind="host",
        state=entry.state,
        status=summary.status,
        task=summary.task,
        policy=summary.policy,
        seed=summary.seed,
        num_done=summary.num_epochs,
        num_planned=summary.horizon_epochs,
        metric_name=name,
        figures={key: value for key, value in figures.items() if value is not None},
        strips=compute_strips(effective_events(entry.records)),
    )


def _sum_up_training(entry: RunEntry) -> ComparedRun:
    summary = compute_training_summary(entry.records)
    curves = summary.curves
    _, last = split_ends(max(1, len(curves.rounds)))
    figures = {name: average_known(values[last]) for name, values in curves.metrics.items()}
    return ComparedRun(
        name=entry.name,
        kind="training",
        state=entry.state,
        status=summary.status,
        task=summary.task,
        policy="",
        seed=summary.seed,
        num_done=summary.num_rounds,
        num_planned=summary.planned_rounds,
        figures={
            **{key: value for key, value in figures.items() if value is not None},
            "num_env_steps": float(summary.num_env_steps),
            "num_parameters": float(summary.num_parameters),
            "num_failures": float(sum(summary.failures.values())),
            "seconds": summary.seconds,
        },
        returns=curves.metrics.get("return", ()),
    )


def _group(entries: Sequence[RunEntry], runs: Sequence[ComparedRun]) -> tuple[SeedGroup, ...]:
    found: dict[str, list[ComparedRun]] = defaultdict(list)
    for entry, run in zip(entries, runs, strict=True):
        if entry.settings:  # where nothing is known of them, nothing says that runs are alike
            found[f"{run.kind} {_without_seed(entry.settings, run.kind)}"].append(run)
    return tuple(_sum_up_group(members) for members in found.values() if len(members) > 1)


def tells_apart(key: str, *, is_training: bool) -> bool:
    """Whether runs that differ in a setting, by its dotted key, belong to different groups.

    Example:
        >>> tells_apart("host.epochs", is_training=False), tells_apart("seed", is_training=False)
        (True, False)
    """
    ignored = _WITHOUT_EFFECT if is_training else (*_WITHOUT_EFFECT, *_OF_TRAINING)
    return key != SEED_KEY and not key.startswith(ignored)


def _without_seed(settings: Mapping[str, JsonValue], kind: str) -> str:
    is_training = kind == "training"
    kept = {key: value for key, value in settings.items() if tells_apart(key, is_training=is_training)}
    return repr(sorted((key, repr(value)) for key, value in kept.items()))


def _sum_up_group(members: Sequence[ComparedRun]) -> SeedGroup:
    ended = [run for run in members if run.status == WENT_WELL]
    names = dict.fromkeys(name for run in ended for name in run.figures)
    spreads = {
        name: compute_spread([run.figures[name] for run in ended if name in run.figures]) for name in names
    }
    return SeedGroup(
        names=tuple(run.name for run in members),
        seeds=tuple(run.seed for run in members),
        num_unfinished=len(members) - len(ended),
        spreads={name: spread for name, spread in spreads.items() if spread is not None},
    )
