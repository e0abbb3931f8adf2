"""The study from its command line: the smoke tier, resuming, and every arm for a few epochs."""

from __future__ import annotations

from pathlib import Path

import peer_study
import pytest
from growth.arms import ARM_NAMES, SMOKE_ARMS
from growth.jobs import Stage
from growth.settled import Settled, write_settled
from study_queue import read_rows

from esper.leyline import ConfigError
from peer_tables import peer_tables
from study_rows import read_rows as read_checked_rows


def run_in_process(plan: peer_study.Plan) -> None:
    for stage, wave in peer_study.STEPS:
        peer_study.work(plan, stage, wave, (0, 1))
        if stage is not Stage.PUBLISH:
            peer_study.settle(plan, stage)


@pytest.mark.slow
def test_the_smoke_tier_runs_its_arms_and_a_second_time_runs_nothing(tmp_path: Path) -> None:
    command = ["--tier", "smoke", "--results", str(tmp_path), "--processes", "1"]
    assert peer_study.main(command) == 0
    path = tmp_path / "peer_digits.jsonl"
    rows = read_checked_rows(path)
    published = [row for row in rows if row["stage"] == "publish"]
    assert {(row["arm"], row["seed"]) for row in published} == {
        (arm, seed) for arm in SMOKE_ARMS for seed in (0, 1)
    }
    assert all(row["failure"] is None for row in rows)
    assert all(row["test_accuracy"] is None for row in rows if row["stage"] != "publish")
    assert "(smoke)" in peer_tables("digits", rows)
    before = path.read_bytes()
    assert peer_study.main(command) == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_every_arm_of_a_short_run_becomes_a_row_with_the_same_fields(tmp_path: Path) -> None:
    plan = peer_study.Plan(
        tasks=("digits",),
        arms=ARM_NAMES,
        tuning_seeds=(1000,),
        published_seeds=(0,),
        epochs=5,
        results=tmp_path,
    )
    run_in_process(plan)
    rows = read_rows(plan.rows_path("digits"))
    published = [row for row in rows if row["stage"] == "publish"]
    assert [row["failure"] for row in rows] == [None] * len(rows)
    assert {row["arm"] for row in published} == set(ARM_NAMES)
    assert len({frozenset(set(row) - {"growths"}) for row in rows}) == 1
    assert len({row["budget_flops"] for row in rows if row["stage"] in ("tune", "publish")}) == 1
    # What is matched by FLOPs takes the nearest epoch: at most half of one of the big network away.
    task = plan.load("digits")
    for row in published:
        if row["arm"] in ("small_flops", "big_flops", "static_final_flops", "width_random"):
            distance = abs(int(str(row["flops_total"])) - int(str(row["budget_flops"])))
            assert distance <= task.epoch_flops(task.big) / 2


def test_shards_share_the_runs_and_leave_none_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = peer_study.Plan(
        tasks=("digits",),
        arms=("small", "greedy"),
        tuning_seeds=(1000, 1001),
        published_seeds=(0,),
        epochs=1,
        results=tmp_path,
    )
    done = []
    monkeypatch.setattr(
        peer_study, "run_job", lambda job, task, settled, fossils: job.key(task.name) | {"short": True}
    )
    monkeypatch.setattr(peer_study, "append_row", lambda path, row: done.append((row["arm"], row["seed"])))
    monkeypatch.setattr(peer_study, "describe", lambda row: "")
    for index in range(2):
        peer_study.work(plan, Stage.CALIBRATE, 0, (index, 2))
    assert sorted(done) == [(arm, seed) for arm in ("greedy", "heuristic") for seed in (1000, 1001)]


def test_a_static_arm_without_the_row_it_builds_on_says_so(tmp_path: Path) -> None:
    plan = peer_study.Plan(
        tasks=("digits",),
        arms=("static_final",),
        tuning_seeds=(1000,),
        published_seeds=(0,),
        epochs=1,
        results=tmp_path,
    )
    settled = Settled(budget_flops=1, learning_rates={"static_final": 0.1, "heuristic": 0.1})
    write_settled(plan.settled_path, {"digits": settled})
    with pytest.raises(ConfigError, match="run wave 0 first"):
        peer_study.work(plan, Stage.PUBLISH, 1, (0, 1))


def test_publishing_before_tuning_ends_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--stage", "publish", "--tasks", "digits", "--results", str(tmp_path)]
    assert peer_study.main(command) == 2
    assert "settled" in capsys.readouterr().err


def test_rows_of_another_budget_are_not_taken_for_done(tmp_path: Path) -> None:
    plan = peer_study.Plan(
        tasks=("digits",),
        arms=("small",),
        tuning_seeds=(1000,),
        published_seeds=(0,),
        epochs=1,
        results=tmp_path,
    )
    settled = Settled(budget_flops=1_000_000, learning_rates={"small": 0.1})
    write_settled(plan.settled_path, {"digits": settled})
    peer_study.work(plan, Stage.PUBLISH, 0, (0, 1))
    settled.budget_flops = 2_000_000
    write_settled(plan.settled_path, {"digits": settled})
    with pytest.raises(ValueError, match="within 1000000 FLOPs"):
        peer_study.work(plan, Stage.PUBLISH, 0, (0, 1))
