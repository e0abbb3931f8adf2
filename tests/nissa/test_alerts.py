"""A person is called for what needs one, in time, not too often; and training never waits for that."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from esper.leyline import (
    AlertFailed,
    AnomalyFound,
    BackendFailed,
    CheckpointFailed,
    CheckpointSaved,
    Event,
    Notice,
    RolledBack,
    RunFinished,
)
from esper.nissa import AlertBackend, EventHub, MemoryBackend
from esper.nissa.backends.alerts import CAPACITY, DISK, STOPPED, find_alert
from nissa.fakes import FailingBackend
from nissa.sample_run import finished_epoch, numbered, run_events

ROLLBACK = RolledBack(
    epoch=4, verdict="diverged", reason="loss 9.1", restored_epoch=3, blamed_slot=None, rollback_count=1
)
END = RunFinished(epoch=9, reason="horizon")


class FakeCommand:
    """Keeps what it was called with; blocks while a test wants it to; fails as told."""

    def __init__(self, error: str = "", *, is_blocked: bool = False) -> None:
        self.calls: list[tuple[dict[str, object], Mapping[str, str]]] = []
        self.error = error
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.is_stopped = False
        if not is_blocked:
            self.gate.set()

    def run(self, payload: bytes, variables: Mapping[str, str]) -> str:
        self.calls.append((json.loads(payload), variables))
        self.entered.set()
        self.gate.wait()
        return "ended" if self.is_stopped else self.error

    def stop(self) -> None:
        self.is_stopped = True
        self.gate.set()

    @property
    def kinds(self) -> list[object]:
        return [facts["alert"] for facts, _ in self.calls]


def tell(command: FakeCommand, *events: Event, run_dir: Path | None = None) -> None:
    """A whole run of these events."""
    backend = AlertBackend(command, run_dir=run_dir, clock=lambda: 0.0)
    for record in numbered(events):
        backend.write(record)
    backend.close()


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (AnomalyFound(epoch=1, name="dead entropy", value=0.0, threshold=0.1, advice="more"), "AnomalyFound"),
        (ROLLBACK, "RolledBack"),
        (CheckpointFailed(epoch=1, name="e1-b0", error="disk full", num_failures=1), "CheckpointFailed"),
        (BackendFailed(epoch=1, backend="run_directory", error="disk full"), "BackendFailed"),
        (RunFinished(epoch=1, reason="governor"), STOPPED),
        (RunFinished(epoch=1, reason="interrupted"), STOPPED),
        (END, None),
        (Notice(epoch=1, text="hello"), None),
        (AlertFailed(epoch=1, alert="x", error="y", num_failures=1), None),
    ],
    ids=lambda value: getattr(value, "kind", str(value)),
)
def test_what_needs_a_person(event: Event, kind: str | None) -> None:
    assert find_alert(event) == kind


def test_an_ordinary_run_calls_nobody(tmp_path: Path) -> None:
    command = FakeCommand()
    tell(command, *run_events(), run_dir=tmp_path)
    assert command.calls == []


def test_a_call_tells_the_facts_by_stdin_and_variables(tmp_path: Path) -> None:
    command = FakeCommand()
    tell(command, ROLLBACK, END, run_dir=tmp_path)
    ((facts, variables),) = command.calls
    text = "rolled back to epoch 3 (rollback 1): diverged: loss 9.1"
    assert facts | {"record": None} == {
        "alert": "RolledBack",
        "text": text,
        "run_dir": str(tmp_path),
        "num_suppressed": 0,
        "record": None,
    }
    assert facts["record"]["event"]["verdict"] == "diverged"  # type: ignore[index]
    assert variables == {
        "ESPER_ALERT_KIND": "RolledBack",
        "ESPER_ALERT_TEXT": text,
        "ESPER_ALERT_EPOCH": "4",
        "ESPER_RUN_DIR": str(tmp_path),
        "ESPER_RUN_ID": "sample",
    }


def test_a_run_that_ends_without_a_result_is_told_at_the_end() -> None:
    command = FakeCommand()
    tell(command, *list(run_events())[:5])
    assert command.kinds == [STOPPED]
    assert command.calls[0][1]["ESPER_ALERT_TEXT"] == "the run ended without a result"


def test_repeated_alerts_are_counted_until_the_interval_is_over() -> None:
    command, now = FakeCommand(), [0.0]
    backend = AlertBackend(command, interval_seconds=60.0, clock=lambda: now[0])
    for second in (0.0, 1.0, 59.0, 60.0):
        now[0] = second
        for record in numbered([ROLLBACK]):
            backend.write(record)
    backend.write(numbered([AnomalyFound(epoch=1, name="a", value=0.0, threshold=0.1, advice="")])[0])
    backend.write(numbered([AnomalyFound(epoch=1, name="b", value=0.0, threshold=0.1, advice="")])[0])
    backend.write(numbered([END])[0])
    backend.close()
    assert command.kinds == ["RolledBack", "RolledBack", "AnomalyFound", "AnomalyFound"]
    assert [facts["num_suppressed"] for facts, _ in command.calls] == [0, 2, 0, 0]


@pytest.mark.parametrize(("free", "is_told"), [(0, True), (399_999_999, True), (400_000_000, False)])
def test_a_disk_without_room_for_more_checkpoints_is_told(free: int, is_told: bool, tmp_path: Path) -> None:
    command = FakeCommand()
    backend = AlertBackend(command, run_dir=tmp_path, free_bytes=lambda path: free)
    for record in numbered([CheckpointSaved(epoch=1, name="e1-b0", num_bytes=100_000_000), END]):
        backend.write(record)
    backend.close()
    assert command.kinds == ([DISK] if is_told else [])


@pytest.mark.fault
@pytest.mark.battery("T47")
def test_a_blocked_command_holds_up_nothing_but_later_calls() -> None:
    """A command that never returns: every event is written, the queue is bounded, drops are exact."""
    command, files = FakeCommand(is_blocked=True), MemoryBackend()
    backend = AlertBackend(command, interval_seconds=0.0, close_seconds=0.0)
    hub = EventHub([backend, files], "run")
    hub.emit(ROLLBACK)
    command.entered.wait()
    for epoch in range(CAPACITY + 5):
        hub.emit(replace(ROLLBACK, epoch=epoch))
        hub.emit(finished_epoch(epoch))
    hub.emit(END)
    assert len(command.calls) == 1  # everything above happened while it ran
    assert backend.num_failures == 5
    hub.close()
    backend._thread.join()
    assert command.is_stopped
    assert backend.num_failures == 5 + 1 + CAPACITY
    assert len([event for event in files.events if isinstance(event, RolledBack)]) == CAPACITY + 6


@pytest.mark.fault
def test_failures_are_counted_and_told_to_the_others() -> None:
    command, files = FakeCommand("exit code 3"), MemoryBackend()
    backend = AlertBackend(command, interval_seconds=0.0)
    hub = EventHub([backend, files], "run")
    for event in (ROLLBACK, ROLLBACK, END):
        hub.emit(event)
    hub.close()
    reports = files.events_of(AlertFailed)
    assert reports[-1] == AlertFailed(epoch=4, alert="RolledBack", error="exit code 3", num_failures=2)
    assert hub.failures == {}
    assert [record.seq for record in files.records] == list(range(len(files.records)))


def test_another_backend_that_fails_calls_a_person() -> None:
    command = FakeCommand()
    hub = EventHub([AlertBackend(command), FailingBackend()], "run")
    hub.emit(Notice(epoch=1, text="hello"))
    hub.emit(END)
    hub.close()
    assert command.kinds == ["BackendFailed"]
