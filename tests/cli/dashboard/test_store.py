"""What is held of a run: found by place, kind and host, bounded, and what went is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from cli.dashboard.sample_runs import make_run
from esper.cli.dashboard.store import RunStore, weigh
from esper.leyline import DecisionMade, EpochCompleted, EventsDropped, RunStarted
from nissa.sample_run import decided, finished_epoch, numbered, run_events


def full_store(max_weight: int = 1_000) -> RunStore:
    store = RunStore(Path("nowhere"), max_weight)
    store.add(numbered(run_events()))
    return store


def test_every_record_is_found_by_its_place() -> None:
    store = full_store()
    assert [held.n for held in store.all()] == list(range(store.next_n))
    assert store.find(5) == store.all()[5]
    assert store.find(10_000) is None
    assert [held.n for held in store.after(store.next_n - 3)] == [store.next_n - 2, store.next_n - 1]


def test_records_are_found_by_kind_and_host() -> None:
    store = full_store()
    assert {type(held.record.event) for held in store.of_kind("EpochCompleted")} == {EpochCompleted}
    assert sum(store.kinds().values()) == len(store.all())
    assert store.instances() == [0]
    assert list(store.of_instance(0)) == list(store.all())
    assert not store.of_instance(7)
    assert not store.of_kind("Nothing")


@pytest.mark.battery("T49")
def test_over_the_bound_the_oldest_samples_go_first_and_are_counted(battery: BatteryRecord) -> None:
    store = RunStore(Path("nowhere"), 500)
    num_batches = 40
    for batch in range(num_batches):
        events = [event for epoch in range(50) for event in (finished_epoch(50 * batch + epoch),)]
        store.add(numbered([*events, decided(50 * batch, "WAIT")], first_seq=51 * batch))
        battery.record(failures=int(store.weight > 500))
        assert store.weight <= 500
    assert store.num_dropped == 51 * num_batches - len(store.all())
    assert len(store.of_kind("DecisionMade")) == num_batches, "no decision goes while there are samples"
    newest = store.of_kind("EpochCompleted")[-1].record.event
    assert newest.epoch == 50 * num_batches - 1


def test_where_there_are_no_samples_left_the_oldest_of_the_rest_goes_and_the_start_stays() -> None:
    store = RunStore(Path("nowhere"), 100)
    first = next(iter(run_events()))
    store.add(numbered([first, *(decided(epoch, "WAIT") for epoch in range(400))]))
    assert store.weight <= 100
    assert store.all()[0].record.event == first
    assert store.all()[-1].record.event.epoch == 399


def test_large_tables_take_more_of_the_bound() -> None:
    small = decided(1, "WAIT")
    assert isinstance(small, DecisionMade)
    large = replace(small, observation={f"feature/{index}": 0.5 for index in range(800)})
    assert weigh(small) < weigh(large)
    assert weigh(large) >= 50


def test_what_a_resumed_attempt_went_back_before_is_left_out() -> None:
    store = full_store()
    start = store.all()[0].record.event
    assert isinstance(start, RunStarted)
    before = len(store.all())
    again = replace(start, is_resumed=True, rewinds_to_seq=9)
    store.add(numbered([again], attempt=1, first_seq=before))
    assert len(store.all()) == 11
    assert store.num_superseded == before - 10
    assert store.all()[-1].n == before, "places are never given twice"


def test_samples_that_the_run_lacks_are_counted() -> None:
    store = RunStore(Path("nowhere"))
    store.add(numbered([EventsDropped(epoch=1, num_dropped=7), EventsDropped(epoch=2, num_dropped=3)]))
    assert store.num_missing == 10


def test_files_are_read_on_where_the_last_look_ended(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run")
    whole = (folder / "events-0.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "events-0.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:10])
    store = RunStore(folder)
    store.refresh()
    assert len(store.all()) == 19
    assert not store.is_behind
    revision = store.revision
    store.refresh()
    assert store.revision == revision, "nothing new: nothing changes"
    with (folder / "events-0.jsonl").open("ab") as file:
        file.write(lines[20][10:] + b"".join(lines[21:]))
    while len(store.all()) < len(lines) - 1:
        store.refresh()
    assert store.revision > revision


def test_lines_that_cannot_be_read_are_counted_and_a_few_are_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run")
    with (folder / "events-0.jsonl").open("ab") as file:
        file.write(b"not json\n" * 200)
    store = RunStore(folder)
    store.refresh()
    assert store.num_bad == 200
    assert 0 < len(store.bad) <= 50


def test_an_answer_is_built_once_per_change() -> None:
    store = full_store()
    built: list[int] = []

    def build() -> int:
        built.append(1)
        return len(built)

    assert [store.cached(("a",), build), store.cached(("a",), build)] == [1, 1]
    store.add(numbered([decided(41, "WAIT")], first_seq=1_000))
    assert store.cached(("a",), build) == 2
