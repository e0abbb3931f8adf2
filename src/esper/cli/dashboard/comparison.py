"""Several runs beside each other: groups that differ in their seed only, mean and spread, differing settings.

Pure functions over digests and configuration files.
"""

from __future__ import annotations

import os
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.cli.dashboard.digest import RunDigest
from esper.cli.dashboard.index import Entry
from esper.cli.dashboard.plain import finite, to_plain
from esper.leyline import JsonValue
from esper.runtime.run_records import CONFIG_NAME

MAX_COMPARED = 24
"""Runs at the same time; the newest ones of those that were asked for."""
MAX_CONFIG_BYTES = 2**20
MAX_DRAWN_POINTS = 400
_SEED = "seed"
_NOT_SET = "not set"
_NAMED_BESIDE = ("policy", "task.name")
_WITHOUT_EFFECT = ("telemetry.", "checkpoint.")
"""Settings that change nothing in what a run comes to."""
_OF_TRAINING = ("training.", "envs.", "fleet.")
"""Settings that only matter where a policy is trained."""


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
    differing = find_differing(runs)
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
            "keys": list(differing),
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


def tells_apart(key: str, *, is_training: bool) -> bool:
    """Whether runs that differ in a setting belong to different groups."""
    ignored = _WITHOUT_EFFECT if is_training else (*_WITHOUT_EFFECT, *_OF_TRAINING)
    return key != _SEED and not key.startswith(ignored)


def find_differing(runs: Sequence[OpenedRun]) -> tuple[str, ...]:
    """Return the dotted keys of settings that are not the same in all runs whose settings can be read."""
    readable = [run.settings for run in runs if run.settings]
    keys = sorted({key for settings in readable for key in settings})
    return tuple(key for key in keys if len({repr(settings.get(key, _NOT_SET)) for settings in readable}) > 1)


def read_settings(path: Path) -> dict[str, JsonValue]:
    """Return the settings of a run by dotted key; empty where they cannot be read. No link is followed."""
    try:
        with os.fdopen(
            os.open(path / CONFIG_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"
        ) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        parsed = tomllib.loads(data.decode("utf-8")) if len(data) <= MAX_CONFIG_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return flatten(parsed)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, JsonValue]:
    """Return the leaves of nested tables by dotted key."""
    leaves: dict[str, JsonValue] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = to_plain(value)
    return leaves


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
        "spread": [finite(_spread(column)) for column in columns],
    }


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


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
        "last_spread": _spread(last) if last else None,
        "test_mean": statistics.fmean(tests) if tests else None,
        "test_spread": _spread(tests) if tests else None,
        "num_params": [run.entry.digest.num_params for run in members],
        "band": compute_band([run.entry.digest.points for run in members if run.entry.digest.points]),
        "runs": [_describe_run(run.entry) for run in members],
    }


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
