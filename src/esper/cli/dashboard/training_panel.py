"""The training of a policy as its page shows it: rounds, environments, signs of trouble.

Pure functions over held records.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from esper.cli.dashboard.plain import event_fields, finite, finite_all
from esper.cli.dashboard.store import RunStore
from esper.leyline import (
    AnomalyFound,
    EpisodeFinished,
    JsonValue,
    PolicyTrainingStarted,
    PolicyUpdated,
    RunFinished,
)

MAX_ROUNDS = 1_200
"""Drawn; more are thinned evenly."""
MAX_EPISODES = 50
"""Newest ones of an environment that are listed."""
MAX_ANOMALIES = 200
_WENT_WELL = "horizon"


def build_training(store: RunStore) -> dict[str, JsonValue]:
    """Return everything that is drawn of the training of a policy."""
    starts = [
        event
        for held in store.of_kind("PolicyTrainingStarted")
        if isinstance(event := held.record.event, PolicyTrainingStarted)
    ]
    ends = [
        event for held in store.of_kind("RunFinished") if isinstance(event := held.record.event, RunFinished)
    ]
    rounds = {
        event.epoch: event
        for held in store.of_kind("PolicyUpdated")
        if isinstance(event := held.record.event, PolicyUpdated)
    }
    x = sorted(rounds)
    x = x[:: -max(1, -(-len(x) // MAX_ROUNDS))][::-1]
    names = sorted({name for each in x for name in rounds[each].metrics})
    return {
        "start": event_fields(starts[-1]) if starts else None,
        "finished": event_fields(ends[-1]) if ends else None,
        "num_rounds": len(rounds),
        "x": list(x),
        "num_env_steps": [rounds[each].num_env_steps for each in x],
        "metrics": {name: finite_all(rounds[each].metrics.get(name) for each in x) for name in names},
        "anomalies": [
            event_fields(held.record.event)
            for held in store.of_kind("AnomalyFound")[-MAX_ANOMALIES:]
            if isinstance(held.record.event, AnomalyFound)
        ],
        "environments": _environments(store),
    }


def _environments(store: RunStore) -> list[JsonValue]:
    by_env: dict[int, list[EpisodeFinished]] = defaultdict(list)
    for held in store.of_kind("EpisodeFinished"):
        event = held.record.event
        if isinstance(event, EpisodeFinished):
            by_env[event.env_id].append(event)
    return [_environment(env, episodes) for env, episodes in sorted(by_env.items())]


def _environment(env_id: int, episodes: Sequence[EpisodeFinished]) -> dict[str, JsonValue]:
    last = episodes[-1]
    ops: Counter[str] = Counter()
    for episode in episodes:
        ops.update(episode.ops)
    return {
        "env_id": env_id,
        "num_episodes": len(episodes),
        "num_failed": sum(episode.reason != _WENT_WELL for episode in episodes),
        "return_mean": mean([episode.total_reward for episode in episodes]),
        "return_last": finite(last.total_reward),
        "metric": finite(last.metric),
        "gain": finite(last.metric - last.never_metric),
        "gain_mean": mean([episode.metric - episode.never_metric for episode in episodes]),
        "added_params": last.added_params,
        "num_fossils": last.num_fossils,
        "flops_ratio": finite(last.flops_spent / last.never_grow_flops) if last.never_grow_flops else None,
        "reason": last.reason,
        "ops": dict(ops),
        "curve": {
            "x": [episode.epoch for episode in episodes[-MAX_EPISODES:]],
            "y": finite_all(episode.total_reward for episode in episodes[-MAX_EPISODES:]),
        },
        "episodes": [event_fields(episode) for episode in episodes[-MAX_EPISODES:]],
    }


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of the values that are numbers; None = there is none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None
