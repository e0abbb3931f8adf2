"""Event files in parts: named, in order, and never over their room for the sake of samples."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import (
    DataError,
    DecisionMade,
    Event,
    EventsDropped,
    Notice,
    PolicyTrainingStarted,
    RewardGranted,
)
from esper.nissa import EventHub, FileCaps, JsonlBackend, MemoryBackend, Record, read_run
from esper.nissa.event_chain import drop_samples, find_event_files, missing_parts, name_of_part
from nissa.sample_run import decided, finished_epoch, numbered
from nissa.sample_training import started_training


def note(epoch: int) -> Event:
    return Notice(epoch=epoch, text="")


def fill(folder: Path, records: list[Record], caps: FileCaps | None = None) -> JsonlBackend:
    """Write records as one process does, and close."""
    backend = JsonlBackend(folder / "events-0.jsonl", run_id="sample", caps=caps or FileCaps())
    for record in records:
        backend.write(record)
    backend.close()
    return backend


def test_files_are_found_by_rank_and_part(tmp_path: Path) -> None:
    names = ["events-0.jsonl", "events-0.2.jsonl", "events-0.10.jsonl", "events-3.jsonl", "events-11.jsonl"]
    others = [
        "events-x.jsonl",
        "events-0.0.jsonl",
        "events-0.x.jsonl",
        "events-0.1.jsonl.tmp",
        ".events-0.jsonl",
    ]
    for name in (*names, *others):
        (tmp_path / name).touch()
    found = find_event_files(tmp_path)
    assert [file.path.name for file in found] == names
    assert [name_of_part(file.rank, file.part) for file in found] == names


def test_holes_in_a_chain_are_named(tmp_path: Path) -> None:
    for name in ("events-0.jsonl", "events-0.3.jsonl", "events-1.1.jsonl"):
        (tmp_path / name).touch()
    assert missing_parts(find_event_files(tmp_path)) == (
        "events-0.1.jsonl",
        "events-0.2.jsonl",
        "events-1.jsonl",
    )


def test_samples_go_and_a_note_of_how_many_stands_where_the_last_one_stood(tmp_path: Path) -> None:
    records = numbered([note(0), finished_epoch(1), note(1), finished_epoch(2), finished_epoch(3), note(3)])
    fill(tmp_path, records)
    assert drop_samples(tmp_path / "events-0.jsonl") == 3
    kept = read_run(tmp_path).records
    assert [(record.seq, record.event.kind) for record in kept] == [
        (0, "Notice"),
        (2, "Notice"),
        (4, "EventsDropped"),
        (5, "Notice"),
    ]
    assert kept[2].event == EventsDropped(epoch=3, num_dropped=3)
    assert drop_samples(tmp_path / "events-0.jsonl") == 0


def test_every_attempt_has_a_note_of_its_own(tmp_path: Path) -> None:
    """A resume supersedes what it went back before, the note of those samples included."""
    first = numbered([finished_epoch(1), finished_epoch(2)])
    again = numbered([started_training(), finished_epoch(2)], attempt=1, first_seq=2)
    fill(tmp_path, [*first, *again])
    drop_samples(tmp_path / "events-0.jsonl")
    events = [(record.attempt, record.event) for record in read_run(tmp_path).records]
    assert [event.num_dropped for _, event in events if isinstance(event, EventsDropped)] == [2, 1]
    assert [attempt for attempt, _ in events] == [0, 1, 1]
    assert isinstance(events[1][1], PolicyTrainingStarted)


def test_a_sample_that_cannot_be_read_is_not_dropped_unseen(tmp_path: Path) -> None:
    fill(tmp_path, numbered([finished_epoch(1)]))
    path = tmp_path / "events-0.jsonl"
    damaged = path.read_bytes() + b'{"kind":"EpochCompleted",\n'
    path.write_bytes(damaged)
    with pytest.raises(DataError):
        drop_samples(path)
    assert path.read_bytes() == damaged


@settings(max_examples=20)
@given(
    attempts=st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=3),
    part_bytes=st.integers(1, 3_000),
)
@pytest.mark.battery("T47")
def test_whatever_is_written_nothing_but_counted_samples_is_ever_lost(
    attempts: list[list[bool]], part_bytes: int
) -> None:
    """Sequence numbers go on over files and resumes, and every sample is there or counted."""
    caps = FileCaps(part_bytes=part_bytes, total_bytes=3 * part_bytes)
    told = MemoryBackend()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # power cuts are not what is tried here
        folder = Path(name)
        for attempt in attempts:
            backend = JsonlBackend(folder / "events-0.jsonl", run_id="sample", caps=caps)
            assert backend.next_seq == len(told.records)
            hub = EventHub(
                [backend, told], "sample", attempt=backend.next_attempt, first_seq=backend.next_seq
            )
            for place, is_sample in enumerate(attempt):
                hub.emit(finished_epoch(place) if is_sample else note(place))
            hub.close()
        log = read_run(folder)
        sizes = [file.path.stat().st_size for file in find_event_files(folder)]
        kept = [record for record in log.records if not isinstance(record.event, EventsDropped)]
        assert (log.bad_lines, log.num_torn) == ((), 0)
        assert [r.event for r in kept if not r.is_sample] == [
            r.event for r in told.records if not r.is_sample
        ]
        assert len(kept) + log.num_dropped == len(told.records)
        seqs = [record.seq for record in log.records]
        assert seqs == sorted(set(seqs))
        missing = {record.seq for record in told.records} - {record.seq for record in kept}
        samples = [record.seq for record in told.records if record.is_sample]
        assert missing == set(samples[: len(missing)])  # the oldest ones
        if sum(sizes[:-1]) > 2 * part_bytes:  # over their room: then no sample is left in closed files
            for file in find_event_files(folder)[:-1]:
                assert drop_samples(file.path) == 0


def test_decisions_of_a_training_may_go_and_those_of_a_run_stay(tmp_path: Path) -> None:
    own = decided(1, "WAIT")
    assert isinstance(own, DecisionMade)
    backend = JsonlBackend(tmp_path / "events-0.jsonl", run_id="sample")
    hub = EventHub([backend], "sample")
    for event in (own, replace(own, round=1, reason='"round":null'), replace(own, reason="x")):
        hub.emit(event)
    hub.emit(RewardGranted(epoch=2, total=0.1, parts={}, return_so_far=0.1))
    hub.close()
    assert drop_samples(tmp_path / "events-0.jsonl") == 2
    kept = [record.event.kind for record in read_run(tmp_path).records]
    assert sorted(kept) == ["DecisionMade", "DecisionMade", "EventsDropped"]
