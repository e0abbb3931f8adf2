"""Several runs beside each other: groups that differ in their seed only, mean and spread, differing settings.

Pure functions over digests and configuration files.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.cli.dashboard.digest import RunDigest
from esper.cli.dashboard.index import Entry
from esper.cli.dashboard.plain import finite, to_plain
from esper.leyline import JsonValue, RunDirectoryError
from esper.nissa import compute_spread, find_differences, tells_apart
from esper.runtime.run_records import read_config_settings

MAX_COMPARED = 24
"""Runs at the same time; the newest ones of those that were asked for."""
MAX_DRAWN_POINTS = 400
_NOT_SET = "not set"
_NAMED_BESIDE = ("policy", "task.name")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """One run and the settings that it was made with."""

    entry: Entry
    settings: Mapping[str, JsonValue]
    """Dotted key -> value; empty where its configuration cannot be read."""


def view_comparison(entries: Sequence[Entry]) -> dict[str, JsonValue]:
    """Return curves, groups, differing settings and growth of runs.

    Args:
        entries: At most `MAX_COMPARED` are compared, the last ones.
    """
    runs = [
        OpenedRun(entry=entry, settings=read_settings(entry.info.path)) for entry in entries[-MAX_COMPARED:]
    ]
    differing = [row.key for row in find_differences([run.settings for run in runs if run.settings])]
    groups: dict[tuple[str, ...], list[OpenedRun]] = defaultdict(list)
    for run in runs:
        digest = run.entry.digest
        telling = [key for key in differing if tells_apart(key, is_training=digest.is_training)]
        own = tuple(str(run.settings.get(key, _NOT_SET)) for key in telling)
        groups[(run.entry.info.task, run.entry.info.policy, digest.metric_name, *own)].append(run)
    return {
        "num_left_out": len(entries) - len(runs),
        "groups": [_describe_group(members, differing) for members in groups.values()],
        "settings": {
            "keys": differing,
            "rows": [
                {
                    "run": run.entry.name,
                    "values": [run.settings.get(key, _NOT_SET) for key in differing],
                    "is_readable": bool(run.settings),
                }
                for run in runs
            ],
        },
    }


def read_settings(path: Path) -> dict[str, JsonValue]:
    """Return the settings of a run by dotted key; empty where they cannot be read, which the page says."""
    try:
        return {key: to_plain(value) for key, value in read_config_settings(path).items()}
    except RunDirectoryError:
        return {}


def compute_band(curves: Sequence[Mapping[int, float]]) -> dict[str, JsonValue]:
    """Return mean and spread of curves at the points that all of them have.

    The spread is the sample standard deviation: sqrt(sum (y - mean)^2 / (n - 1)); 0 for a single curve.
    """
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    shared = shared[:: -max(1, -(-len(shared) // MAX_DRAWN_POINTS))][::-1]
    columns = [[curve[x] for curve in curves] for x in shared]
    return {
        "x": list(shared),
        "mean": [finite(statistics.fmean(column)) for column in columns],
        "spread": [finite(_deviation(column)) for column in columns],
    }


def _describe_group(members: Sequence[OpenedRun], differing: Sequence[str]) -> dict[str, JsonValue]:
    first = members[0].entry
    last = [y for run in members if (y := _last(run.entry.digest)) is not None]
    tests = [value for run in members for value in list(run.entry.digest.test_metrics.values())[:1]]
    return {
        "task": first.info.task,
        "policy": first.info.policy,
        "metric_name": first.digest.metric_name,
        "is_training": first.digest.is_training,
        "differs": {
            key: members[0].settings.get(key, _NOT_SET)
            for key in differing
            if tells_apart(key, is_training=first.digest.is_training) and key not in _NAMED_BESIDE
        },
        "seeds": [run.entry.info.seed for run in members],
        "num_runs": len(members),
        "last_mean": statistics.fmean(last) if last else None,
        "last_spread": _deviation(last) if last else None,
        "test_mean": statistics.fmean(tests) if tests else None,
        "test_spread": _deviation(tests) if tests else None,
        "num_params": [run.entry.digest.num_params for run in members],
        "band": compute_band([run.entry.digest.points for run in members if run.entry.digest.points]),
        "runs": [_describe_run(run.entry) for run in members],
    }


def _deviation(values: Sequence[float]) -> float:
    spread = compute_spread(values)
    return 0.0 if spread is None or spread.deviation is None else spread.deviation


def _last(digest: RunDigest) -> float | None:
    return digest.points[max(digest.points)] if digest.points else None


def _describe_run(entry: Entry) -> dict[str, JsonValue]:
    x, y = entry.digest.curve(MAX_DRAWN_POINTS)
    return {
        "id": entry.id,
        "name": entry.name,
        "seed": entry.info.seed,
        "state": entry.info.state or "unreadable",
        "horizon": entry.digest.horizon,
        "x": list(x),
        "y": list(y),
        "strips": entry.digest.strips(),
    }
