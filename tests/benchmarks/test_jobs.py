"""The queue: which runs a stage has, for how long they train, and that a broken one is a row."""

from __future__ import annotations

import pytest
from growth import jobs
from growth.arms import ARM_NAMES, ARMS, CALIBRATED, Kind
from growth.jobs import Job, Stage, count_epochs, grown_key, list_jobs, run_job
from growth.settled import Settled

from esper.leyline import ConfigError

from .small_task import make_task

SETTLED = Settled(
    budget_flops=10_000_000,
    epochs=dict.fromkeys(CALIBRATED, 5),
    learning_rates=dict.fromkeys(ARM_NAMES, 0.1),
)


def make_job(arm: str, *, seed: int = 1000, stage: Stage = Stage.TUNE) -> Job:
    return Job(stage=stage, arm=ARMS[arm], learning_rate=0.1, seed=seed)


def test_every_arm_is_tuned_at_three_rates_on_every_seed_in_one_of_two_waves() -> None:
    task = make_task()
    waves = [list_jobs(Stage.TUNE, wave, task, SETTLED, (1000, 1001), ARM_NAMES) for wave in (0, 1)]
    assert sum(map(len, waves)) == len(ARM_NAMES) * 3 * 2
    assert {job.arm.kind for job in waves[1]} == {Kind.STATIC}
    assert len({str(job.key("waves")) for wave in waves for job in wave}) == len(ARM_NAMES) * 6


def test_a_published_arm_has_its_settled_rate_only_and_none_without() -> None:
    task = make_task()
    found = list_jobs(Stage.PUBLISH, 0, task, SETTLED, (0,), ("small", "static_final"))
    assert [(job.arm.name, job.learning_rate) for job in found] == [("small", 0.1)]
    with pytest.raises(ConfigError, match="arm small: no learning rate"):
        list_jobs(Stage.PUBLISH, 0, task, Settled(budget_flops=1), (0,), ("small",))


def test_calibration_runs_what_decides_as_it_goes_and_only_the_first_time_the_heuristic() -> None:
    task = make_task()
    first = list_jobs(Stage.CALIBRATE, 0, task, None, (1000,), ("small", "greedy"))
    again = list_jobs(Stage.RECALIBRATE, 0, task, SETTLED, (1000,), ("small", "greedy"))
    assert [job.arm.name for job in first] == ["greedy", "heuristic"]
    assert [job.arm.name for job in again] == ["greedy"]


@pytest.mark.parametrize(
    ("arm", "epochs"),
    # An epoch costs 3 x 640 x 464 = 890,880 FLOPs at width 4, and 3 x 640 x 1,392 at width 12.
    [("small", 6), ("big", 6), ("small_flops", 11), ("heuristic", 5), ("static_final_flops", 11)],
)
def test_epochs_follow_from_the_budget_of_the_arm(arm: str, epochs: int) -> None:
    assert count_epochs(make_job(arm), make_task(), SETTLED, ()) == epochs


@pytest.mark.parametrize("arm", ["big_flops", "width_random"])
def test_a_bill_that_is_known_before_comes_as_near_to_the_budget_as_epochs_allow(arm: str) -> None:
    task = make_task()
    settled = Settled(budget_flops=20_000_000)
    row = run_job(make_job(arm), task, settled)
    assert row["failure"] is None
    most = task.epoch_flops(task.big)
    assert abs(int(str(row["flops_total"])) - settled.budget_flops) <= most


def test_a_static_network_builds_on_the_row_of_its_seed_and_stage() -> None:
    key = grown_key(make_job("static_final", seed=3, stage=Stage.PUBLISH), "waves", SETTLED)
    assert key == {
        "stage": "publish",
        "arm": "heuristic",
        "task": "waves",
        "learning_rate": 0.1,
        "seed": 3,
    }


@pytest.mark.parametrize(("seed", "test_accuracy"), [(1000, None), (0, 0.1)])
def test_a_run_that_breaks_down_is_a_row_at_chance(
    monkeypatch: pytest.MonkeyPatch, seed: int, test_accuracy: float | None
) -> None:
    def break_down(*arguments: object) -> None:
        raise RuntimeError("the network is gone")

    monkeypatch.setattr(jobs, "_run", break_down)
    row = run_job(make_job("small", seed=seed), make_task(), SETTLED)
    assert row["failure"] == "RuntimeError: the network is gone"
    assert row["validation_accuracy"] == pytest.approx(0.1)
    assert row["test_accuracy"] == test_accuracy
    assert row["curve"] == []


def test_a_failed_row_has_the_fields_of_a_sound_one() -> None:
    task = make_task(epochs=2)
    settled = Settled(budget_flops=1, epochs={"heuristic": 2})
    sound = run_job(make_job("small"), task, settled)
    failed = jobs.describe_failure(make_job("small"), task, "broke")
    assert set(failed) < set(sound)
    assert set(sound) - set(failed) == {
        "arm",
        "budget_flops",
        "cpu_seconds",
        "epochs",
        "format",
        "learning_rate",
        "num_threads",
        "protocol_hash",
        "seconds",
        "seed",
        "stage",
        "task",
        "torch",
    }
