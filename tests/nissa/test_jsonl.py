"""The event file is on its way to the disk when it should be, and is repaired when it is reopened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from esper.leyline import BackendFailed, DataError, Event, Notice, RunDirectoryError
from esper.nissa import (
    EventHub,
    FileCaps,
    Header,
    JsonlBackend,
    MemoryBackend,
    decode_line,
    event_files,
    read_run,
)
from esper.nissa.backends.jsonl import schedule_once
from nissa.fakes import ManualTimer
from nissa.sample_run import finished_epoch, numbered


def note(epoch: int) -> Event:
    return Notice(epoch=epoch, text="")


def open_file(folder: Path, flush_interval_seconds: float = 1.0) -> JsonlBackend:
    return JsonlBackend(
        folder / "events-0.jsonl",
        run_id="sample",
        clock=lambda: 5.0,
        flush_interval_seconds=flush_interval_seconds,
    )


def lines(folder: Path) -> list[bytes]:
    return (folder / "events-0.jsonl").read_bytes().splitlines()


def filled(folder: Path, num_notes: int = 3) -> bytes:
    """A closed file of some notes; returns its bytes."""
    backend = open_file(folder)
    for record in numbered(note(i) for i in range(num_notes)):
        backend.write(record)
    backend.close()
    return (folder / "events-0.jsonl").read_bytes()


def test_the_first_line_is_the_header(tmp_path: Path) -> None:
    open_file(tmp_path).close()
    assert decode_line(lines(tmp_path)[0]) == Header(run_id="sample", rank=0, start_time=5.0)


def test_a_lifecycle_event_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    timer = ManualTimer()
    backend = JsonlBackend(tmp_path / "events-0.jsonl", run_id="sample", schedule=timer)
    sample, decision = numbered([finished_epoch(1), note(1)])
    backend.write(sample)
    assert len(lines(tmp_path)) == 1
    backend.write(decision)
    assert [decode_line(line) for line in lines(tmp_path)[1:]] == [sample, decision]
    assert timer.waiting == []  # the flush took the sample along
    backend.close()


def test_a_sample_reaches_the_file_after_the_interval_without_a_further_record(tmp_path: Path) -> None:
    timer = ManualTimer()
    backend = JsonlBackend(
        tmp_path / "events-0.jsonl", run_id="sample", schedule=timer, flush_interval_seconds=0.5
    )
    for record in numbered([finished_epoch(1), finished_epoch(2)]):
        backend.write(record)
    assert [delay for delay, _ in timer.waiting] == [0.5]  # one timer for the burst
    timer.fire()
    assert len(lines(tmp_path)) == 3
    backend.close()
    backend._flush_late()  # a timer that fires after close finds nothing to do


def test_an_interval_of_zero_writes_samples_at_once(tmp_path: Path) -> None:
    backend = open_file(tmp_path, flush_interval_seconds=0.0)
    backend.write(numbered([finished_epoch(1)])[0])
    assert len(lines(tmp_path)) == 2
    backend.close()


def test_the_real_timer_fires() -> None:
    fired = threading.Event()
    schedule_once(0.0, fired.set)
    assert fired.wait(30)


def test_reopening_goes_on_counting(tmp_path: Path) -> None:
    filled(tmp_path)
    backend = open_file(tmp_path)
    assert (backend.next_seq, backend.next_attempt, backend.num_torn) == (3, 1, 0)
    backend.write(numbered([note(9)], attempt=1, first_seq=3)[0])
    assert backend.next_seq == 4
    backend.close()
    assert [record.seq for record in read_run(tmp_path).records] == [0, 1, 2, 3]


def test_a_new_file_starts_at_zero(tmp_path: Path) -> None:
    backend = open_file(tmp_path)
    assert (backend.next_seq, backend.next_attempt, backend.num_torn) == (0, 0, 0)
    backend.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
@pytest.mark.battery("T47")
def test_a_torn_tail_is_cut_and_counted(tmp_path: Path, cut: int) -> None:
    whole = filled(tmp_path)
    (tmp_path / "events-0.jsonl").write_bytes(whole[:-cut])
    backend = open_file(tmp_path)
    assert (backend.next_seq, backend.num_torn) == (2, 1)
    backend.write(numbered([note(2)], first_seq=2)[0])
    backend.close()
    log = read_run(tmp_path)
    assert [record.seq for record in log.records] == [0, 1, 2]
    assert (log.num_torn, log.bad_lines) == (0, ())


def test_a_file_cut_anywhere_can_be_continued(tmp_path: Path) -> None:
    whole = filled(tmp_path)
    for length in range(len(whole)):
        (tmp_path / "events-0.jsonl").write_bytes(whole[:length])
        backend = open_file(tmp_path)
        seq = backend.next_seq
        backend.write(numbered([note(0)], first_seq=seq)[0])
        backend.close()
        assert [record.seq for record in read_run(tmp_path).records] == list(range(seq + 1))


def test_an_unreadable_last_line_is_torn_and_an_earlier_one_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "events-0.jsonl"
    whole = filled(tmp_path)
    path.write_bytes(whole + b"\0\0\0\n")
    backend = open_file(tmp_path)
    assert (backend.next_seq, backend.num_torn) == (3, 1)
    backend.close()
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"\0\0\0\n\0\0\n")
    with pytest.raises(DataError, match="damaged before its last line"):
        open_file(tmp_path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "events-0.jsonl"
    with pytest.raises(RunDirectoryError, match="belongs to run 'sample', rank 0"):
        JsonlBackend(path, run_id="other")
    with pytest.raises(RunDirectoryError, match="expected run 'sample', rank 1"):
        JsonlBackend(path, run_id="sample", rank=1)


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (b'{"kind": "Nothing"}\n', "not a header"),
        (b"hello\n", "not a line of JSON"),
        (None, "expected the header"),
    ],
)
def test_a_file_that_is_no_event_file_is_refused(tmp_path: Path, first: bytes | None, problem: str) -> None:
    whole = filled(tmp_path)
    (tmp_path / "events-0.jsonl").write_bytes(first or whole.split(b"\n", 1)[1])
    with pytest.raises(DataError, match=problem):
        open_file(tmp_path)


def test_a_second_header_is_damage(tmp_path: Path) -> None:
    whole = filled(tmp_path, 1)
    header = whole.split(b"\n", 1)[0] + b"\n"
    (tmp_path / "events-0.jsonl").write_bytes(header + header + b"torn")
    with pytest.raises(DataError, match="a second header"):
        open_file(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot write the event file"):
        JsonlBackend(tmp_path / "gone" / "events-0.jsonl", run_id="sample")


def test_a_late_flush_that_fails_is_raised_by_the_next_call(tmp_path: Path) -> None:
    timer = ManualTimer()
    backend = JsonlBackend(tmp_path / "events-0.jsonl", run_id="sample", schedule=timer)
    backend.write(numbered([finished_epoch(1)])[0])
    descriptor = backend._file.fileno()
    sound = os.dup(descriptor)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)  # the disk is full from here on
    timer.fire()
    with pytest.raises(OSError, match="No space left"):
        backend.write(numbered([note(1)], first_seq=1)[0])
    os.dup2(sound, descriptor)
    os.close(full)
    os.close(sound)
    backend.close()


def test_an_event_that_is_not_plain_data_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    backend = open_file(tmp_path)
    broken = Notice(epoch=0, text=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text holds a object"):
        backend.write(numbered([broken])[0])
    backend.close()
    assert len(lines(tmp_path)) == 1


SMALL = FileCaps(part_bytes=600, total_bytes=6_000)


def open_chain(folder: Path, caps: FileCaps = SMALL) -> JsonlBackend:
    return JsonlBackend(folder / "events-0.jsonl", run_id="sample", clock=lambda: 5.0, caps=caps)


def filled_chain(folder: Path, num_notes: int = 9) -> tuple[Path, ...]:
    """A closed chain of files of a few notes each."""
    backend = open_chain(folder)
    for record in numbered(note(i) for i in range(num_notes)):
        backend.write(record)
    backend.close()
    return event_files(folder)


def test_a_full_file_is_followed_by_the_next_one_and_the_chain_reads_as_one(tmp_path: Path) -> None:
    files = filled_chain(tmp_path)
    assert [path.name for path in files] == ["events-0.jsonl", "events-0.1.jsonl", "events-0.2.jsonl"]
    assert all(path.stat().st_size <= SMALL.part_bytes for path in files)
    assert all(isinstance(decode_line(path.read_bytes().splitlines()[0]), Header) for path in files)
    assert [record.seq for record in read_run(tmp_path).records] == list(range(9))


def test_a_record_longer_than_a_file_has_one_to_itself(tmp_path: Path) -> None:
    backend = open_chain(tmp_path, FileCaps(part_bytes=1, total_bytes=2))
    for record in numbered(note(i) for i in range(3)):
        backend.write(record)
    backend.close()
    assert [len(path.read_bytes().splitlines()) for path in event_files(tmp_path)] == [2, 2, 2]


@pytest.mark.battery("T47")
def test_a_chain_cut_anywhere_in_its_newest_file_can_be_continued(tmp_path: Path) -> None:
    """A kill while a file was begun leaves one without records, or with half a header."""
    newest = filled_chain(tmp_path)[-1]
    whole = newest.read_bytes()
    for length in range(0, len(whole), 5):
        for path in event_files(tmp_path)[3:]:
            path.unlink()
        newest.write_bytes(whole[:length])
        backend = open_chain(tmp_path)
        seq = backend.next_seq
        assert (seq >= 6, backend.next_attempt, backend.path) == (True, 1, newest)
        for record in numbered([note(0), note(1)], attempt=1, first_seq=seq):
            backend.write(record)
        backend.close()
        log = read_run(tmp_path)
        assert [record.seq for record in log.records] == list(range(seq + 2))
        assert (log.num_torn, log.bad_lines) == (0, ())


def test_a_chain_with_a_hole_is_not_continued(tmp_path: Path) -> None:
    filled_chain(tmp_path)[1].unlink()
    with pytest.raises(DataError, match=r"events-0\.1\.jsonl is missing"):
        open_chain(tmp_path)


def test_a_file_of_the_chain_that_belongs_to_another_run_is_refused(tmp_path: Path) -> None:
    newest = filled_chain(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes().replace(b"sample", b"other"))
    with pytest.raises(RunDirectoryError, match="belongs to run 'other'"):
        open_chain(tmp_path)


@pytest.mark.fault
def test_samples_that_cannot_be_dropped_stay_and_writing_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caps = FileCaps(part_bytes=1_300, total_bytes=2_600)
    backend = open_chain(tmp_path, caps)
    records = numbered(finished_epoch(i) for i in range(12))
    for record in records[:2]:
        backend.write(record)
    backend.flush()
    first = event_files(tmp_path)[0]
    first.write_bytes(first.read_bytes() + b'{"kind":"EpochCompleted",\n')
    for record in records[2:]:
        backend.write(record)
    backend.close()
    assert backend.num_dropped == 0
    assert "old event files cannot be made smaller" in caplog.text
    assert [record.seq for record in read_run(tmp_path).records] == list(range(12))


@pytest.mark.fault
@pytest.mark.battery("T47")
def test_a_full_disk_costs_events_that_are_counted_and_no_number_is_given_twice(tmp_path: Path) -> None:
    backend, told = open_file(tmp_path), MemoryBackend()
    hub = EventHub([backend, told], "sample")
    for epoch in range(3):
        hub.emit(note(epoch))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, backend._file.fileno())  # the disk is full from here on
    os.close(full)
    for epoch in range(3, 9):
        hub.emit(note(epoch))
    hub.close()
    assert [event.backend for event in told.events_of(BackendFailed)] == ["jsonl"]
    assert hub.losses == {"jsonl": 7, "memory": 0}  # six notes and the report itself
    assert [record.seq for record in read_run(tmp_path).records] == [0, 1, 2]
    again = open_file(tmp_path)
    assert (again.next_seq, again.next_attempt, again.num_torn) == (3, 1, 0)
    again.close()


NUM_KILLS = 25
WRITER = """
import sys
from pathlib import Path
from esper.leyline import Notice
from esper.nissa import EventHub, FileCaps, JsonlBackend
backend = JsonlBackend(
    Path(sys.argv[1]), run_id="sample", caps=FileCaps(part_bytes=20_000, total_bytes=40_000)
)
hub = EventHub([backend], "sample", attempt=backend.next_attempt, first_seq=backend.next_seq)
while True:
    hub.emit(Notice(epoch=0, text="x" * 500))
    sys.stdout.write(f"{hub.next_seq - 1}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.battery("T47")
def test_acknowledged_events_survive_sigkill_again_and_again(tmp_path: Path, battery: BatteryRecord) -> None:
    """SIGKILL 25 times, over many files: nothing acknowledged is lost, no number is given twice."""
    path = tmp_path / "events-0.jsonl"
    acknowledged: list[int] = []
    for attempt in range(NUM_KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(40 + 17 * attempt):
                acknowledged.append(int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        battery.record(failures=int(read_run(tmp_path).num_torn > 1))
    assert battery.num_failures == 0
    log = read_run(tmp_path)
    seqs = [record.seq for record in log.records]
    assert set(acknowledged) <= set(seqs)
    assert len(set(acknowledged)) == len(acknowledged)
    assert seqs == list(range(len(seqs)))
    assert log.bad_lines == ()
    assert {record.attempt for record in log.records} == set(range(NUM_KILLS))
    assert len(event_files(tmp_path)) > NUM_KILLS
