"""A run in a few numbers: bounded, and what a rollback or a resume undid is forgotten."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from cli.dashboard.sample_runs import make_run, make_training
from esper.cli.dashboard.digest import MAX_POINTS, RunDigest
from esper.leyline import RolledBack, RunStarted
from nissa.sample_run import EPOCHS, SLOTS, finished_epoch, numbered, run_events


def test_a_host_run_is_known_by_its_metric_per_epoch(tmp_path: Path) -> None:
    digest = RunDigest(make_run(tmp_path, "run"))
    digest.refresh(5.0)
    assert not digest.is_training
    assert digest.metric_name == "accuracy"
    assert sorted(digest.points) == list(range(1, EPOCHS + 1))
    assert digest.horizon == EPOCHS
    assert digest.test_metrics


def test_a_training_is_known_by_its_return_per_round(tmp_path: Path) -> None:
    digest = RunDigest(make_training(tmp_path, "ppo"))
    digest.refresh(5.0)
    assert digest.is_training
    assert digest.metric_name == "return"
    assert digest.points == {number: 0.01 * number for number in range(1, 7)}
    assert digest.num_envs == 2


def test_a_run_of_any_length_keeps_a_bounded_number_of_points_and_its_last_one() -> None:
    digest = RunDigest(Path("nowhere"))
    last = 10 * MAX_POINTS
    digest.take(numbered(finished_epoch(epoch) for epoch in range(1, last + 1)))
    assert len(digest.points) <= MAX_POINTS
    assert max(digest.points) == last


def test_a_curve_is_thinned_and_keeps_its_end() -> None:
    digest = RunDigest(Path("nowhere"))
    digest.take(numbered(finished_epoch(epoch) for epoch in range(1, 501)))
    x, y = digest.curve(50)
    assert len(x) == len(y) <= 51
    assert x[-1] == 500


def test_a_rollback_and_a_resume_forget_what_they_undid() -> None:
    digest = RunDigest(Path("nowhere"))
    digest.take(numbered(run_events()))
    digest.take(
        numbered(
            [
                RolledBack(
                    epoch=40, verdict="nan", reason="", restored_epoch=20, blamed_slot=None, rollback_count=1
                )
            ]
        )
    )
    assert max(digest.points) == 20
    assert all(epoch <= 20 for epoch, _, _ in digest.changes)
    start = next(iter(run_events()))
    assert isinstance(start, RunStarted)
    digest.take(numbered([replace(start, epoch=11, is_resumed=True, rewinds_to_seq=3)]))
    assert max(digest.points) == 11


def test_strips_cover_every_slot_without_a_gap() -> None:
    digest = RunDigest(Path("nowhere"))
    digest.take(numbered(run_events()))
    strips = digest.strips()
    assert len(strips) == len(SLOTS)
    for strip in strips:
        assert isinstance(strip, dict)
        spans = strip["spans"]
        assert isinstance(spans, list)
        ends = [(span[1], span[2]) for span in spans if isinstance(span, list)]
        assert ends[0][0] == 0
        assert ends[-1][1] == EPOCHS
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_other_hosts_of_a_fleet_are_not_mixed_in() -> None:
    digest = RunDigest(Path("nowhere"))
    digest.take(numbered([finished_epoch(1), replace(finished_epoch(2), instance=3)]))
    assert list(digest.points) == [1]
