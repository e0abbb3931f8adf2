"""The hub numbers events, hands them to every backend, and survives every backend."""

from __future__ import annotations

import logging

import pytest

from esper.leyline import BackendFailed, EventSink, Notice, UnknownNameError
from esper.nissa import BufferedBackend, EventHub, MemoryBackend
from nissa.fakes import FailingBackend, GatedBackend
from nissa.sample_run import finished_epoch


def note(epoch: int) -> Notice:
    return Notice(epoch=epoch, text=f"note {epoch}")


def test_every_backend_gets_every_event_in_order() -> None:
    backends = [MemoryBackend("a"), MemoryBackend("b")]
    hub = EventHub(backends, "run", attempt=2, rank=1, first_seq=7, clock=lambda: 5.0)
    for epoch in range(3):
        hub.emit(note(epoch))
    assert isinstance(hub, EventSink)
    assert [r.seq for r in backends[0].records] == [7, 8, 9]
    assert {(r.run_id, r.attempt, r.rank, r.wall_time) for r in backends[0].records} == {("run", 2, 1, 5.0)}
    assert backends[0].records == backends[1].records
    assert (hub.next_seq, hub.attempt) == (10, 2)


@pytest.mark.battery("T47")
def test_a_failing_backend_is_reported_once_and_its_losses_are_counted() -> None:
    sound, broken = MemoryBackend(), FailingBackend(good_writes=2)
    hub = EventHub([broken, sound], "run")
    for epoch in range(5):
        hub.emit(note(epoch))
    (report,) = sound.events_of(BackendFailed)
    assert report == BackendFailed(epoch=2, backend="broken", error="OSError: no space left")
    assert [r.seq for r in sound.records] == list(range(6))
    assert hub.losses == {"broken": 4, "memory": 0}  # three notes and the report itself
    assert len(broken.records) + hub.losses["broken"] == hub.next_seq
    assert hub.failures == {"broken": "OSError: no space left"}
    assert not hub.is_active("broken")
    assert hub.is_active("memory")


def test_backends_that_fail_at_each_others_report_all_go() -> None:
    sound = MemoryBackend()
    hub = EventHub([FailingBackend("x", good_writes=1), sound, FailingBackend("y", good_writes=2)], "run")
    for epoch in range(3):
        hub.emit(note(epoch))
    assert [event.backend for event in sound.events_of(BackendFailed)] == ["x", "y"]
    assert [r.seq for r in sound.records] == list(range(hub.next_seq))


def test_a_run_without_a_working_backend_goes_on_and_says_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = EventHub([FailingBackend()], "run")
    with caplog.at_level(logging.ERROR):
        hub.emit(note(1))
    hub.emit(note(2))
    assert "last telemetry backend broken failed" in caplog.text
    assert hub.losses == {"broken": 3}


def test_a_failing_flush_switches_off_that_backend_only() -> None:
    sound, broken = MemoryBackend(), FailingBackend(at=("flush",))
    hub = EventHub([broken, sound], "run")
    hub.emit(note(4))
    hub.flush(durable=True)
    assert sound.num_flushes == 1
    assert sound.events_of(BackendFailed) == (
        BackendFailed(epoch=4, backend="broken", error="OSError: flush failed"),
    )
    hub.close()
    assert broken.num_closes == 1  # failed ones are closed too


def test_close_is_idempotent_and_later_events_count_as_lost() -> None:
    backend = MemoryBackend()
    hub = EventHub([backend], "run")
    hub.emit(note(0))
    hub.close()
    hub.close()
    hub.flush()
    hub.emit(note(1))
    assert backend.is_closed
    assert backend.num_flushes == 1
    assert hub.losses == {"memory": 1}
    assert hub.next_seq == 2


def test_a_failing_close_is_told_to_those_still_open() -> None:
    sound, broken = MemoryBackend(), FailingBackend(at=("close",))
    hub = EventHub([broken, sound], "run")
    hub.close()
    assert [event.error for event in sound.events_of(BackendFailed)] == ["OSError: close failed"]
    assert sound.is_closed


def test_a_backend_that_already_failed_may_fail_again_at_close() -> None:
    sound, broken = MemoryBackend(), FailingBackend(at=("write", "close"))
    hub = EventHub([broken, sound], "run")
    hub.emit(note(0))
    hub.close()
    assert len(sound.events_of(BackendFailed)) == 1


def test_equal_names_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        EventHub([MemoryBackend(), MemoryBackend()], "run")


def test_an_unknown_backend_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'memory'"):
        EventHub([MemoryBackend()], "run").is_active("memoy")


@pytest.mark.battery("T47")
def test_losses_include_what_a_buffer_dropped() -> None:
    slow = GatedBackend()
    hub = EventHub([BufferedBackend(slow, capacity=2)], "run")
    hub.emit(finished_epoch(0))
    slow.entered.wait()
    for epoch in range(1, 6):
        hub.emit(finished_epoch(epoch))
    slow.gate.set()
    hub.close()
    assert hub.losses == {"slow": 3}
    assert len([r for r in slow.records if r.is_sample]) + 3 == hub.next_seq


@pytest.mark.fault
@pytest.mark.battery("T47")
def test_a_console_that_blocks_holds_up_neither_training_nor_the_event_file() -> None:
    slow, files = GatedBackend(), MemoryBackend()
    hub = EventHub([files, BufferedBackend(slow, capacity=16)], "run")
    for epoch in range(2_000):
        hub.emit(finished_epoch(epoch))
        if epoch % 200 == 0:
            hub.emit(note(epoch))
    assert slow.records == []  # every call above returned while the console stood still
    assert [record.seq for record in files.records] == list(range(2_010))
    slow.gate.set()
    hub.close()
    arrived = [record for record in slow.records if record.event.kind != "EventsDropped"]
    assert len(arrived) + hub.losses["slow"] == 2_010
    assert len([record for record in arrived if not record.is_sample]) == 10
