"""The training of a policy as it is drawn: a point per round, a row per environment."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from esper.cli.dashboard.store import RunStore
from esper.cli.dashboard.training_panel import build_training, mean
from esper.leyline import Event
from nissa.sample_run import numbered
from nissa.sample_training import NUM_ENVS, ended_episode, started_training, training_events, updated


def panel(events: list[Event]) -> dict[str, object]:
    store = RunStore(Path("nowhere"))
    store.add(numbered(events))
    return dict(build_training(store))


def test_every_metric_of_a_round_is_a_curve() -> None:
    found = panel(list(training_events(20, 6)))
    assert found["x"] == [1, 2, 3, 4, 5, 6]
    metrics = found["metrics"]
    assert isinstance(metrics, dict)
    assert all(len(values) == 6 for values in metrics.values())
    assert metrics["rollout/ep_rew_mean"][-1] == 0.06


def test_every_environment_is_a_row_with_its_hosts() -> None:
    found = panel(list(training_events(20, 6)))
    environments = found["environments"]
    assert isinstance(environments, list)
    assert [env["env_id"] for env in environments] == list(range(NUM_ENVS))
    assert all(env["num_episodes"] == 6 for env in environments)
    assert environments[0]["gain"] == 0.8 - 0.75


def test_sixty_four_environments_are_listed() -> None:
    events: list[Event] = [started_training(), *(ended_episode(1, env) for env in range(64)), updated(1)]
    environments = panel(events)["environments"]
    assert isinstance(environments, list)
    assert len(environments) == 64


def test_a_failed_host_and_a_return_that_is_not_finite_do_not_break_the_table() -> None:
    bad = replace(ended_episode(1, 0, reason="nan"), total_reward=math.nan, never_grow_flops=0)
    environments = panel([started_training(), bad])["environments"]
    assert isinstance(environments, list)
    assert environments[0]["num_failed"] == 1
    assert environments[0]["return_mean"] is None
    assert environments[0]["flops_ratio"] is None


def test_a_training_that_has_only_begun_is_drawn_empty() -> None:
    found = panel([started_training()])
    assert (found["x"], found["environments"], found["finished"]) == ([], [], None)


def test_the_mean_leaves_out_what_is_no_number() -> None:
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert mean([]) is None
