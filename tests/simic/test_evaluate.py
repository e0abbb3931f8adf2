"""A policy on fresh hosts: everything is counted, the test split is read once, at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline import LifecycleOp
from esper.simic.evaluate import EpisodeResult, evaluate_policy, run_episode
from esper.simic.rewards.config import RewardConfig
from esper.tamiyo import FixedSchedulePolicy, NeverGrow, ScheduledAction
from esper.tolaria import HostRun
from simic.growing import HORIZON, build_small_run
from tolaria.small_run import EPISODE

if TYPE_CHECKING:
    import pytest

PRICES = RewardConfig(lambda_p=0.2, lambda_f=0.0)


def build_scripted() -> FixedSchedulePolicy:
    return FixedSchedulePolicy([ScheduledAction(epoch=epoch, action=action) for epoch, action in EPISODE[:5]])


def test_what_a_policy_did_and_spent_is_counted() -> None:
    result = run_episode(build_small_run(0), build_scripted(), 0, prices=PRICES)
    assert sum(result.ops.values()) == HORIZON
    assert result.ops[LifecycleOp.GERMINATE.value] == 2
    assert result.ops[LifecycleOp.FOSSILIZE.value] == result.num_fossils == 1
    assert result.added_params > 0
    assert result.flops_spent > result.never_grow_flops
    assert result.failure is None


def test_the_objective_is_the_metric_less_the_rent_by_hand() -> None:
    result = run_episode(build_small_run(0), build_scripted(), 0, prices=PRICES)
    never = run_episode(build_small_run(0), NeverGrow(), 0, prices=PRICES)
    assert never.objective == never.validation_metric
    assert result.objective < result.validation_metric


def test_equal_seeds_give_equal_lives_so_that_policies_are_paired() -> None:
    first, second = (evaluate_policy(build_small_run, NeverGrow(), (0, 1), prices=PRICES) for _ in range(2))
    assert first == second
    assert [result.seed for result in first] == [0, 1]


def test_each_host_is_told_as_soon_as_it_is_done() -> None:
    told: list[EpisodeResult] = []
    results = evaluate_policy(build_small_run, NeverGrow(), (1,), prices=PRICES, on_episode=told.append)
    assert tuple(told) == results
    assert told[0].to_json()["seed"] == 1


def test_the_test_split_is_read_once_and_after_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    finish = HostRun.finish

    def spy(run: HostRun) -> object:
        epochs.append(run.epoch)
        return finish(run)

    monkeypatch.setattr(HostRun, "finish", spy)
    run_episode(build_small_run(1), NeverGrow(), 1, prices=PRICES)
    assert epochs == [HORIZON]
