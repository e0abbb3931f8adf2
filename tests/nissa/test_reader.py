"""What was written is read back: ranks merged, torn tails forgiven, rewound ranges dropped, damage told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import (
    BackendFailed,
    CheckpointSaved,
    DataError,
    EpochCompleted,
    Event,
    Notice,
    PolicyTrainingStarted,
    RunDirectoryError,
    RunFinished,
    RunStarted,
)
from esper.nissa import (
    BadLine,
    EventHub,
    FileCaps,
    JsonlBackend,
    Record,
    RunDirectoryBackend,
    compute_training_summary,
    effective_log,
    event_files,
    read_first_event,
    read_run,
    tail,
)
from esper.nissa.event_chain import drop_samples
from esper.nissa.wording import Narrator
from nissa.sample_run import decided, finished_epoch, numbered, run_events, write_run
from nissa.sample_training import resumed_training, started_training, training_events


def note(epoch: int) -> Event:
    return Notice(epoch=epoch, text="")


def started(seq: int | None) -> RunStarted:
    """The mark of a resumed attempt."""
    first = next(iter(run_events()))
    assert isinstance(first, RunStarted)
    return replace(first, is_resumed=True, rewinds_to_seq=seq)


def edit(folder: Path, change: Callable[[bytes], bytes], rank: int = 0) -> None:
    path = folder / f"events-{rank}.jsonl"
    path.write_bytes(change(path.read_bytes()))


def test_ranks_are_merged_by_time_and_keep_their_order(tmp_path: Path) -> None:
    zero = [
        replace(r, wall_time=t) for r, t in zip(numbered(map(note, range(3))), (1.0, 9.0, 4.0), strict=True)
    ]
    one = [replace(r, wall_time=5.0) for r in numbered(map(note, range(2)), rank=1)]
    write_run(tmp_path, zero)
    write_run(tmp_path, one, rank=1)
    log = read_run(tmp_path)
    assert [(r.rank, r.seq) for r in log.records] == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)]
    assert [header.rank for header in log.headers] == [0, 1]


def test_files_are_sorted_by_number_and_others_ignored(tmp_path: Path) -> None:
    for name in ("events-10.jsonl", "events-2.jsonl", "events-x.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in event_files(tmp_path)] == ["events-2.jsonl", "events-10.jsonl"]


def test_one_torn_last_line_per_file_is_forgiven(tmp_path: Path) -> None:
    for rank in (0, 1):
        write_run(tmp_path, numbered(map(note, range(3)), rank=rank), rank=rank)
        edit(tmp_path, lambda data: data[:-5], rank)
    log = read_run(tmp_path)
    assert log.num_torn == 2
    assert log.bad_lines == ()
    assert len(log.records) == 4


def test_a_last_line_of_rubbish_counts_as_torn(tmp_path: Path) -> None:
    write_run(tmp_path, numbered([note(0)]))
    edit(tmp_path, lambda data: data + b"\0\0\n")
    log = read_run(tmp_path)
    assert (log.num_torn, len(log.records), log.bad_lines) == (1, 1, ())


def test_every_other_bad_line_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(map(note, range(3))))
    foreign = (tmp_path / "events-0.jsonl").read_bytes().splitlines()[2].replace(b'"rank":0', b'"rank":4')

    def damage(data: bytes) -> bytes:
        lines = data.splitlines()
        lines[2:3] = [b"{broken", foreign]
        return b"\n".join([*lines, b"rubbish", b"torn"])

    edit(tmp_path, damage)
    log = read_run(tmp_path)
    assert [record.seq for record in log.records] == [0, 2]
    assert [(bad.file, bad.line) for bad in log.bad_lines] == [("events-0.jsonl", n) for n in (3, 4, 6)]
    assert "belongs to another run or rank" in log.bad_lines[1].problem
    assert log.num_torn == 1
    with pytest.raises(DataError, match=r"events-0.jsonl:3: .* \(3 bad lines in all\)"):
        effective_log(tmp_path)


def test_a_file_that_has_only_begun_its_header_is_empty(tmp_path: Path) -> None:
    (tmp_path / "events-0.jsonl").write_bytes(b'{"kind":"Hea')
    log = read_run(tmp_path)
    assert (log.records, log.headers, log.num_torn) == ((), (), 1)
    (tmp_path / "events-0.jsonl").write_bytes(b"")
    assert read_run(tmp_path).num_torn == 0


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, numbered([note(0)]))
    edit(tmp_path, lambda data: data.split(b"\n", 1)[1])
    with pytest.raises(DataError, match="is a Notice record"):
        read_run(tmp_path)
    edit(tmp_path, lambda data: b"rubbish\n" + data)
    with pytest.raises(DataError, match="not a line of JSON"):
        read_run(tmp_path)


def test_a_folder_of_two_runs_and_one_of_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no events"):
        read_run(tmp_path)
    write_run(tmp_path, numbered([note(0)]))
    write_run(tmp_path, numbered([note(0)], rank=1), rank=1)
    edit(tmp_path, lambda data: data.replace(b"sample", b"other"), 1)
    with pytest.raises(RunDirectoryError, match="several runs: other, sample"):
        read_run(tmp_path)


def test_a_resume_supersedes_what_it_went_back_before(tmp_path: Path) -> None:
    records = [
        *numbered(map(note, range(5))),
        *numbered([started(2), note(10), note(11)], attempt=1, first_seq=5),
        *numbered([started(6), note(20)], attempt=2, first_seq=8),
    ]
    write_run(tmp_path, records)
    log = read_run(tmp_path)
    assert [(r.attempt, r.seq) for r in log.records] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 5),
        (1, 6),
        (2, 8),
        (2, 9),
    ]
    assert log.num_superseded == 3


def test_a_resume_rewinds_its_own_rank_only(tmp_path: Path) -> None:
    write_run(tmp_path, [*numbered(map(note, range(3))), *numbered([started(0)], attempt=1, first_seq=3)])
    write_run(tmp_path, numbered(map(note, range(3)), rank=1), rank=1)
    assert [(r.rank, r.seq) for r in sorted(read_run(tmp_path).records, key=lambda r: (r.rank, r.seq))] == [
        (0, 0), (0, 3), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip


def test_an_interrupted_and_resumed_run_has_the_log_of_the_whole_one(tmp_path: Path) -> None:
    events = list(run_events())
    cut = next(i for i, event in enumerate(events) if isinstance(event, EpochCompleted) and event.epoch == 20)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    write_run(whole, numbered(events))
    lost = [
        decided(20, "WAIT"),
        CheckpointSaved(epoch=20, name="e20-b3", num_bytes=5),
        RunFinished(epoch=20, reason="interrupted"),
    ]
    first = numbered([*events[: cut + 1], *lost])
    resumed = [
        started(cut),
        *[replace(e, seconds=99.0) if isinstance(e, EpochCompleted) else e for e in events[cut + 1 :]],
        BackendFailed(epoch=40, backend="console", error="gone"),
    ]
    write_run(pieces, first)
    write_run(
        pieces,
        [replace(r, wall_time=r.wall_time + 500) for r in numbered(resumed, attempt=1, first_seq=len(first))],
    )
    assert effective_log(pieces) == effective_log(whole)
    other = tmp_path / "other"
    other.mkdir()
    write_run(other, numbered([decided(0, "CULL") if e == decided(8, "WAIT") else e for e in events]))
    assert effective_log(other) != effective_log(whole)


def test_a_resumed_training_of_a_policy_supersedes_what_it_went_back_before(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    write_run(whole, numbered(training_events(num_rounds=4)))
    write_run(pieces, resumed_training(num_rounds=4, saved_round=2, lost_round=3))
    log = read_run(pieces)
    assert log.num_superseded > 0
    assert [r.event for r in log.records if not isinstance(r.event, PolicyTrainingStarted)] == [
        r.event for r in read_run(whole).records if not isinstance(r.event, PolicyTrainingStarted)
    ]
    assert effective_log(pieces) == effective_log(whole)


def test_the_first_event_tells_what_a_run_is(tmp_path: Path) -> None:
    assert read_first_event(tmp_path) is None
    write_run(tmp_path, numbered([started_training(), note(0)]))
    assert read_first_event(tmp_path) == started_training()
    edit(tmp_path, lambda data: data.split(b"\n", 1)[0] + b"\n")
    assert read_first_event(tmp_path) is None


@pytest.mark.parametrize("second", [b"rubbish\n", b'{"kind":"Noti', b"x" * 100])
def test_a_first_event_that_cannot_be_read_is_none(tmp_path: Path, second: bytes) -> None:
    write_run(tmp_path, numbered([note(0)]))
    edit(tmp_path, lambda data: data.split(b"\n", 1)[0] + b"\n" + second)
    assert read_first_event(tmp_path) is None


def test_an_interrupted_end_before_the_checkpoint_does_not_count(tmp_path: Path) -> None:
    records = numbered([note(0), RunFinished(epoch=1, reason="interrupted")])
    write_run(tmp_path, [*records, *numbered([started(1), note(2)], attempt=1, first_seq=2)])
    assert [json.loads(line)["kind"] for line in effective_log(tmp_path)] == ["Notice", "Notice"]


def test_effective_lines_hold_no_clock_no_number_and_no_sample(tmp_path: Path) -> None:
    write_run(tmp_path, numbered([note(1), finished_epoch(1)]))
    (line,) = effective_log(tmp_path)
    assert json.loads(line) == {
        "rank": 0,
        "kind": "Notice",
        "event": {"epoch": 1, "instance": 0, "text": "", "is_about_process": False},
    }


def test_effective_lines_hold_no_notice_about_the_process(tmp_path: Path) -> None:
    told = [note(1), Notice(epoch=1, text="on this machine", is_about_process=True), note(2)]
    write_run(tmp_path, numbered(told))
    assert [json.loads(line)["event"]["epoch"] for line in effective_log(tmp_path)] == [1, 2]


def test_tail_gives_each_record_once_as_the_file_grows(tmp_path: Path) -> None:
    records = numbered(map(note, range(4)))
    full = tmp_path / "full"
    full.mkdir()
    write_run(full, records)
    data = (full / "events-0.jsonl").read_bytes()
    live = tmp_path / "live"
    live.mkdir()
    batches = tail(live)
    assert next(batches).records == ()
    seen: list[Record] = []
    for start in range(0, len(data), 37):
        with (live / "events-0.jsonl").open("ab") as file:
            file.write(data[start : start + 37])
        seen += next(batches).records
    assert seen == records
    assert next(batches).records == ()


def test_tail_reports_bad_lines_and_survives_a_cut_tail(tmp_path: Path) -> None:
    write_run(tmp_path, numbered([note(0)]))
    path = tmp_path / "events-0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"rubbish\n")
    batches = tail(tmp_path)
    (bad,) = next(batches).bad_lines
    assert (bad.file, bad.line) == ("events-0.jsonl", 3)
    assert isinstance(bad, BadLine)
    path.write_bytes(whole)  # a reopening process cut it
    assert next(batches).records == ()
    late = numbered([note(1)], attempt=1, first_seq=1)
    write_run(tmp_path, late)
    assert list(next(batches).records) == late


def test_tail_finds_files_that_appear_later(tmp_path: Path) -> None:
    batches = tail(tmp_path)
    next(batches)
    write_run(tmp_path, numbered([note(0)], rank=2), rank=2)
    assert [record.rank for record in next(batches).records] == [2]


def write_chain(folder: Path, records: Iterable[Record], rank: int = 0, part_bytes: int = 2_000) -> None:
    """Write records into several small files, or go on with them."""
    caps = FileCaps(part_bytes=part_bytes, total_bytes=2**40)
    backend = JsonlBackend(folder / f"events-{rank}.jsonl", run_id="sample", rank=rank, caps=caps)
    for record in records:
        backend.write(record)
    backend.close()


def test_a_run_in_many_files_is_the_run_in_one(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    records = numbered(run_events())
    write_run(one, records)
    write_chain(many, records)
    write_chain(many, numbered(map(note, range(40)), rank=1), rank=1)
    assert len(event_files(many)) > 10
    assert [record for record in read_run(many).records if record.rank == 0] == records
    assert read_first_event(many) == records[0].event
    assert [line for line in effective_log(many) if '"rank": 0' in line] == list(effective_log(one))


def test_a_resume_goes_back_over_the_beginning_of_a_file(tmp_path: Path) -> None:
    write_chain(tmp_path, numbered(map(note, range(30))))
    write_chain(tmp_path, numbered([started(2), note(9)], attempt=1, first_seq=30))
    assert [record.seq for record in read_run(tmp_path).records] == [0, 1, 2, 30, 31]


def test_a_torn_line_is_forgiven_once_per_file(tmp_path: Path) -> None:
    write_chain(tmp_path, numbered(map(note, range(30))))
    files = event_files(tmp_path)
    for file in files:
        file.write_bytes(file.read_bytes()[:-5])
    log = read_run(tmp_path)
    assert (log.num_torn, log.bad_lines) == (len(files), ())
    assert len(log.records) == 30 - len(files)


def test_a_file_that_is_missing_from_the_middle_is_told(tmp_path: Path) -> None:
    write_chain(tmp_path, numbered(map(note, range(30))))
    (tmp_path / "events-0.1.jsonl").unlink()
    assert read_run(tmp_path).bad_lines == (
        BadLine(file="events-0.1.jsonl", line=1, problem="the file is missing"),
    )
    with pytest.raises(DataError, match="is missing"):
        effective_log(tmp_path)


def test_dropped_samples_are_counted_and_change_no_effective_log(tmp_path: Path) -> None:
    records = numbered(run_events())
    write_chain(tmp_path, records)
    before = effective_log(tmp_path)
    num_dropped = sum(drop_samples(file) for file in event_files(tmp_path)[:5])
    log = read_run(tmp_path)
    assert log.num_dropped == num_dropped > 0
    assert effective_log(tmp_path) == before


def test_tail_follows_a_chain_and_survives_samples_dropped_behind_it(tmp_path: Path) -> None:
    records = numbered(run_events())
    batches = tail(tmp_path)
    seen: list[Record] = []
    for start in range(0, len(records), 20):
        write_chain(tmp_path, records[start : start + 20])
        seen += next(batches).records
        drop_samples(event_files(tmp_path)[0])  # what was read already
        batch = next(batches)
        assert (batch.records, batch.bad_lines) == ((), ())
    assert seen == records


@pytest.mark.battery("T42")
def test_a_clock_that_jumps_changes_no_order_and_makes_no_duration_negative(tmp_path: Path) -> None:
    day = 86_400.0
    jumps = (0.0, day, -day, -10.0, 3_600.0, -3_600.0, 0.0)
    now = [1.7e9]

    def clock() -> float:
        now[0] += 1.0
        return now[0] + jumps[int(now[0]) % len(jumps)]

    backend = RunDirectoryBackend(tmp_path, run_id="sample", clock=clock)
    hub = EventHub([backend], "sample", clock=clock)
    for event in training_events(num_rounds=8):
        hub.emit(event)
    hub.close()
    records = read_run(tmp_path).records
    assert [record.seq for record in records] == list(range(hub.next_seq))
    assert compute_training_summary(records).seconds >= 0.0
    narrator = Narrator()
    for record in numbered(run_events()):
        narrator.tell(replace(record, wall_time=clock()))
        eta = narrator.eta_seconds()
        assert eta is None or eta >= 0.0


def test_tail_reads_a_large_file_in_steps_and_passes_over_a_line_that_is_too_long(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    lines = (tmp_path / "events-0.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "events-0.jsonl").write_bytes(b"".join([*lines[:10], b"x" * 10_000 + b"\n", *lines[10:]]))
    found: list[Record] = []
    bad: list[BadLine] = []
    num_behind = 0
    for batch in tail(tmp_path, max_bytes=2_000):
        found += batch.records
        bad += batch.bad_lines
        num_behind += batch.is_behind
        if not batch.is_behind:
            break
    assert tuple(found) == read_run(tmp_path).records
    assert num_behind > 3
    assert [line.line for line in bad] == [11]
    assert "longer than 2000 bytes" in bad[0].problem


def test_tail_decodes_only_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(run_events()))
    batch = next(tail(tmp_path, kinds=frozenset({"RunStarted", "RunFinished"})))
    assert [record.event.kind for record in batch.records] == ["RunStarted", "RunFinished"]


def test_tail_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    for name in ("real", "run"):
        (tmp_path / name).mkdir()
    write_run(tmp_path / "real", numbered(run_events()))
    (tmp_path / "run" / "events-0.jsonl").symlink_to(tmp_path / "real" / "events-0.jsonl")
    os.mkfifo(tmp_path / "run" / "events-1.jsonl")
    batch = next(tail(tmp_path / "run"))
    assert (batch.records, batch.bad_lines, batch.is_behind) == ((), (), False)
