"""A run as its watcher sees it; covers nissa/analytics/watching.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import (
    AnomalyFound,
    EpochCompleted,
    Event,
    RewardGranted,
    RolledBack,
    RunStarted,
    SharpnessMeasured,
)
from esper.nissa import (
    JsonlBackend,
    Record,
    RunWatch,
    WatchView,
    compute_strips,
    compute_view,
    effective_events,
    read_run,
    watch_to_plain,
)
from nissa.sample_run import EPOCHS, SLOTS, finished_epoch, numbered, run_events, write_run
from nissa.sample_training import NUM_ENVS, resumed_training, training_events


def _written(folder: Path, events: Iterable[Event]) -> Path:
    write_run(folder, numbered(events))
    return folder


def _seen(folder: Path) -> WatchView:
    watch = RunWatch(folder)
    watch.read_new()
    return watch.look()


def test_a_folder_without_events_is_an_empty_look(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    assert not watch.read_new()
    assert watch.look() == WatchView()


def test_a_finished_run_shows_what_the_whole_log_says(tmp_path: Path) -> None:
    view = _seen(_written(tmp_path, run_events()))
    (host,) = view.hosts
    assert (view.kind, view.status, view.num_done, view.num_planned) == ("host", "horizon", EPOCHS, EPOCHS)
    assert (view.task, view.policy, view.seed) == ("digits", "heuristic", 3)
    assert host.strips == compute_strips(effective_events(read_run(tmp_path).records))
    assert tuple(host.strips) == SLOTS
    assert (host.num_fossilized, host.num_culled, host.seeds, view.eta_seconds) == (1, 2, (), None)
    assert view.events[-1].text.startswith("run finished")


def test_what_is_held_does_not_grow_with_rewards_and_measurements(tmp_path: Path) -> None:
    def num_held(name: str, more: Iterable[Event]) -> int:
        folder = tmp_path / name
        folder.mkdir()
        watch = RunWatch(_written(folder, [*run_events(), *more]))
        watch.read_new()
        return watch.num_held

    rewards = [RewardGranted(epoch=EPOCHS, total=0.1, parts={}, return_so_far=0.1)] * 300
    sharp = [
        SharpnessMeasured(epoch=EPOCHS, sharpness=1.0, loss=1.0, sigma=0.01, num_draws=3, num_items=9)
    ] * 300
    assert num_held("more", [*rewards, *sharp]) == num_held("plain", [])


def test_reading_in_steps_comes_to_the_same_as_reading_at_once(tmp_path: Path) -> None:
    backend = JsonlBackend(tmp_path / "events-0.jsonl", run_id="sample")
    watch = RunWatch(tmp_path)
    for record in numbered(run_events()):
        backend.write(record)
        backend.flush()
        assert watch.read_new()
    backend.close()
    assert watch.look() == _seen(tmp_path)


def test_a_line_is_read_once(tmp_path: Path) -> None:
    watch = RunWatch(_written(tmp_path, run_events()))
    assert watch.read_new()
    before = watch.look()
    assert not watch.read_new()
    assert watch.look() == before


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    file = _written(tmp_path, run_events()) / "events-0.jsonl"
    data = file.read_bytes()
    file.write_bytes(data[:-20])
    watch = RunWatch(tmp_path)
    watch.read_new()
    assert watch.look().status == "unfinished"
    file.write_bytes(data)
    assert watch.read_new()
    assert (watch.look().status, watch.look().num_bad_lines) == ("horizon", 0)


def test_a_live_seed_is_shown_as_last_measured(tmp_path: Path) -> None:
    events = [event for event in run_events() if event.epoch <= 19]
    (host,) = _seen(_written(tmp_path, events)).hosts
    seed = {each.seed_id: each for each in host.seeds}["block2#1"]
    assert (seed.stage, seed.alpha, seed.contribution, seed.start_epoch) == ("PROBATIONARY", 1.0, 0.02, 8)
    assert {each.seed_id: each.alpha for each in host.seeds}["block1#1"] is None


def test_the_estimate_follows_recent_epochs(tmp_path: Path) -> None:
    start = next(iter(run_events()))
    first = numbered([start, *map(finished_epoch, range(1, 11))])
    later = numbered(map(finished_epoch, range(11, 31)), first_seq=len(first))
    slow = [replace(record, wall_time=1000.0 + 100.0 * record.seq) for record in first]
    end = slow[-1].wall_time
    fast = [replace(record, wall_time=end + 2.0 * (place + 1)) for place, record in enumerate(later)]
    write_run(tmp_path, [*slow, *fast])
    assert _seen(tmp_path).eta_seconds == pytest.approx(2.0 * (EPOCHS - 30))


def test_an_epoch_that_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    events = [event for event in run_events() if event.epoch <= 6]
    back = RolledBack(
        epoch=6, verdict="diverged", reason="loss", restored_epoch=4, blamed_slot=None, rollback_count=1
    )
    view = _seen(_written(tmp_path, [*events, back]))
    (host,) = view.hosts
    assert (view.num_done, host.num_rollbacks, host.curves.epochs) == (4, 1, (1, 2, 3, 4))
    (flag,) = view.flags
    assert (flag.kind, flag.num_times) == ("RolledBack", 1)


def test_what_a_resume_went_back_before_is_forgotten(tmp_path: Path) -> None:
    first = numbered(event for event in run_events() if event.epoch <= 9)
    saved = next(r.seq for r in first if isinstance(r.event, EpochCompleted) and r.event.epoch == 5)
    start = first[0].event
    assert isinstance(start, RunStarted)
    again = replace(start, epoch=5, is_resumed=True, rewinds_to_seq=saved)
    later = numbered([again, finished_epoch(6)], attempt=1, first_seq=len(first))
    write_run(tmp_path, first)
    watch = RunWatch(tmp_path)
    watch.read_new()
    assert watch.look().hosts[0].seeds
    write_run(tmp_path, later)
    watch.read_new()
    view = watch.look()
    assert (view.num_done, view.hosts[0].seeds) == (6, ())
    assert not [event for event in view.events if "GERMINATED" in event.text]


def test_hosts_of_a_fleet_stand_beside_each_other(tmp_path: Path) -> None:
    events = [replace(event, instance=number) for number in (0, 3) for event in run_events()]
    view = _seen(_written(tmp_path, events))
    assert [host.instance for host in view.hosts] == [0, 3]
    assert view.hosts[0].strips == view.hosts[1].strips
    assert view.status == "horizon"


def test_a_training_shows_rounds_environments_and_red_flags(tmp_path: Path) -> None:
    view = _seen(_written(tmp_path, training_events(20, 5)))
    assert (view.kind, view.status, view.num_done, view.num_planned) == ("training", "unfinished", 5, 20)
    assert view.training is not None
    assert view.training.curves.metrics["return"][-1] == 0.05
    assert [each.env_id for each in view.environments] == list(range(NUM_ENVS))
    assert view.environments[0].num_episodes == 5
    anomaly = next(flag for flag in view.flags if flag.kind == AnomalyFound.__name__)
    assert (anomaly.num_times, anomaly.first_epoch, anomaly.last_epoch) == (2, 2, 3)
    assert view.eta_seconds is not None


def test_a_resumed_training_counts_each_round_once(tmp_path: Path) -> None:
    write_run(tmp_path, resumed_training(num_rounds=6, saved_round=2, lost_round=4))
    view = _seen(tmp_path)
    assert view.training is not None
    assert (view.num_done, view.training.num_episodes, view.status) == (6, 12, "horizon")


def test_a_refused_decision_is_no_red_flag(tmp_path: Path) -> None:
    view = _seen(_written(tmp_path, run_events()))
    assert view.flags == ()
    assert any(event.text.startswith("refused") for event in view.events)


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    events: list[Event] = [
        replace(event, task="\x1b[31mred\x07") if isinstance(event, RunStarted) else event
        for event in run_events()
    ]
    view = _seen(_written(tmp_path, events))
    assert "\x1b" not in "".join(event.text for event in view.events)


@pytest.mark.parametrize("events", [list(run_events()), list(training_events(4)), []])
def test_a_look_is_plain_json(events: list[Event], tmp_path: Path) -> None:
    view = _seen(_written(tmp_path, events))
    plain = json.loads(json.dumps(watch_to_plain(view), allow_nan=False))
    assert (plain["kind"], plain["num_done"]) == (view.kind, view.num_done)
    if view.training is not None:
        assert [each["round"] for each in plain["training"]["rounds"]] == [1, 2, 3, 4]


def test_a_number_that_is_not_finite_is_null_in_json() -> None:
    records: list[Record] = numbered(
        [*list(run_events())[:1], replace(finished_epoch(1), train_loss=float("nan"))]
    )
    plain = json.loads(json.dumps(watch_to_plain(compute_view(records)), allow_nan=False))
    assert plain["hosts"][0]["curves"]["train_loss"] == [None]
