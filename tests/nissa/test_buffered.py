"""A slow backend costs samples, counted exactly and in the stream; never a lifecycle event or the order."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Event, EventsDropped, Notice
from esper.nissa import BufferedBackend, MemoryBackend, Record
from nissa.fakes import GatedBackend
from nissa.sample_run import finished_epoch, numbered


def note(epoch: int) -> Event:
    return Notice(epoch=epoch, text="")


def blocked(capacity: int, patience_seconds: float = 60.0) -> tuple[GatedBackend, BufferedBackend]:
    """A buffer whose thread is stuck writing record 0."""
    inner = GatedBackend()
    buffer = BufferedBackend(inner, capacity=capacity, patience_seconds=patience_seconds)
    buffer.write(numbered([note(0)])[0])
    inner.entered.wait()
    return inner, buffer


def kinds(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.seq, record.event.kind) for record in records]


def test_records_pass_in_order() -> None:
    inner = MemoryBackend()
    buffer = BufferedBackend(inner)
    records = numbered([note(0), finished_epoch(1), note(1)])
    for record in records:
        buffer.write(record)
    buffer.flush()
    assert inner.records == records
    assert inner.num_flushes == 1
    buffer.close()
    buffer.close()
    assert inner.is_closed
    assert (buffer.num_lost, buffer.name) == (0, "memory")


def test_oldest_samples_go_first_and_the_stream_says_how_many() -> None:
    inner, buffer = blocked(capacity=3)
    for record in numbered([note(1), *[finished_epoch(i) for i in range(2, 8)], note(8)], first_seq=1):
        buffer.write(record)
    inner.gate.set()
    buffer.close()
    assert kinds(inner.records) == [
        (0, "Notice"),
        (1, "Notice"),
        (6, "EventsDropped"),
        (7, "EpochCompleted"),
        (8, "Notice"),
    ]
    dropped = inner.records[2].event
    assert dropped == EventsDropped(epoch=6, num_dropped=5)
    assert buffer.num_dropped == buffer.num_lost == 5


def test_a_sample_among_lifecycle_events_only_is_itself_dropped() -> None:
    inner, buffer = blocked(capacity=2)
    for record in numbered([note(1), note(2), finished_epoch(3)], first_seq=1):
        buffer.write(record)
    inner.gate.set()
    buffer.close()
    assert kinds(inner.records) == [(0, "Notice"), (1, "Notice"), (2, "Notice"), (3, "EventsDropped")]


def test_a_lifecycle_event_waits_for_room() -> None:
    inner, buffer = blocked(capacity=1)
    first, second = numbered([note(1), note(2)], first_seq=1)
    buffer.write(first)
    writer = threading.Thread(target=buffer.write, args=(second,))
    writer.start()
    inner.gate.set()
    writer.join()
    buffer.close()
    assert kinds(inner.records) == [(0, "Notice"), (1, "Notice"), (2, "Notice")]
    assert buffer.num_lost == 0


@pytest.mark.battery("T47")
def test_patience_ends_with_an_error_instead_of_a_stopped_training() -> None:
    inner, buffer = blocked(capacity=1, patience_seconds=0.0)
    first, second = numbered([note(1), note(2)], first_seq=1)
    buffer.write(first)
    with pytest.raises(TimeoutError, match="'slow' took no record"):
        buffer.write(second)
    with pytest.raises(TimeoutError):
        buffer.flush()
    with pytest.raises(TimeoutError):
        buffer.close()
    assert buffer.num_undelivered == 2  # the one under way and the one queued
    assert not inner.is_closed
    inner.gate.set()


def test_an_inner_failure_reaches_the_next_call_and_the_queue_is_counted() -> None:
    inner, buffer = blocked(capacity=8)
    for record in numbered([note(1), note(2)], first_seq=1):
        buffer.write(record)
    inner.error = OSError("gone")
    inner.gate.set()
    with pytest.raises(OSError, match="gone"):
        buffer.flush()
    with pytest.raises(OSError, match="gone"):
        buffer.write(numbered([note(3)], first_seq=3)[0])
    assert buffer.num_undelivered == 3
    with pytest.raises(OSError, match="gone"):
        buffer.close()
    assert inner.is_closed


def test_writing_after_close_is_refused() -> None:
    buffer = BufferedBackend(MemoryBackend())
    buffer.close()
    with pytest.raises(RuntimeError, match="closed"):
        buffer.write(numbered([note(0)])[0])


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity=0"):
        BufferedBackend(MemoryBackend(), capacity=0)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 6))
@pytest.mark.battery("T47")
def test_every_record_arrives_or_is_counted(is_sample: list[bool], capacity: int) -> None:
    inner, buffer = blocked(capacity)
    events = [finished_epoch(i) if sample else note(i) for i, sample in enumerate(is_sample, 1)]
    if sum(not sample for sample in is_sample) > capacity:
        inner.gate.set()  # lifecycle events alone overfill it: somebody must take them
    for record in numbered(events, first_seq=1):
        buffer.write(record)
    inner.gate.set()
    buffer.close()
    told = sum(r.event.num_dropped for r in inner.records if isinstance(r.event, EventsDropped))
    arrived = [r for r in inner.records if not isinstance(r.event, EventsDropped)]
    assert told == buffer.num_dropped
    assert len(arrived) + told == len(events) + 1
    assert sum(not r.is_sample for r in arrived) == 1 + is_sample.count(False)
    seqs = [r.seq for r in inner.records]
    assert seqs == sorted(set(seqs))
