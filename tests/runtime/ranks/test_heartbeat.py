from __future__ import annotations

import threading
from pathlib import Path

import pytest

from esper.runtime.fault_plan import FaultPlan, InjectedFaultError, parse_faults
from esper.runtime.ranks.heartbeat import FAILED, LEFT, Heartbeat, Pulse, path_of, read_pulse


def build_heartbeat(folder: Path, *, every_s: float = 60.0) -> Heartbeat:
    return Heartbeat(folder, rank=1, session="run/0", every_s=every_s)


def read(folder: Path) -> Pulse:
    pulse = read_pulse(folder, 1, "run/0")
    assert isinstance(pulse, Pulse)
    return pulse


def read_once(folder: Path, phase: str) -> Pulse:
    """Look until another thread has published a phase."""
    for _ in range(1_000):
        if read(folder).phase == phase:
            break
        threading.Event().wait(0.005)
    return read(folder)


def test_a_rank_is_seen_from_its_start_and_a_phase_as_soon_as_it_begins(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path)
    heartbeat.start()
    first = read(tmp_path)
    assert (first.phase, first.step, first.counter, first.state) == ("start", 0, 0, "running")
    heartbeat.enter("rollout", 7)
    seen = read_once(tmp_path, "rollout")
    assert (seen.step, seen.beat > first.beat) == (7, True)
    heartbeat.close()


def test_the_beat_goes_on_while_the_main_thread_does_nothing(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path, every_s=0.01)
    heartbeat.start()
    beat = read(tmp_path).beat
    for _ in range(1_000):
        if read(tmp_path).beat > beat + 2:
            break
        threading.Event().wait(0.005)
    pulse = read(tmp_path)
    assert (pulse.beat > beat + 2, pulse.counter) == (True, 0)
    heartbeat.close()


def test_each_collective_raises_the_counter_by_one_and_phases_do_not(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path)
    assert heartbeat.enter_collective("all_sum") == 1
    heartbeat.enter("update", 3)
    assert heartbeat.enter_collective("barrier") == 2
    assert (heartbeat.pulse.operation, heartbeat.pulse.phase, heartbeat.pulse.step) == (
        "barrier",
        "update",
        3,
    )


def test_a_witness_is_published_at_once_and_stays_one_when_it_leaves(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path)
    heartbeat.start()
    heartbeat.admit_failure()
    assert (read(tmp_path).state, read(tmp_path).suspect) == (FAILED, -1)
    heartbeat.admit_failure(0)
    heartbeat.close("because")
    assert (read(tmp_path).state, read(tmp_path).suspect) == (FAILED, 0)


def test_a_rank_that_leaves_says_why_and_stops_beating(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path, every_s=0.01)
    heartbeat.start()
    heartbeat.close("MemoryError: no room")
    heartbeat.close("again")
    last = read(tmp_path)
    assert (last.state, last.reason) == (LEFT, "MemoryError: no room")
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_a_folder_that_cannot_be_written_stops_nothing_and_is_counted(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path / "missing")
    heartbeat.start()
    heartbeat.enter_collective("all_sum")
    heartbeat.close()
    assert heartbeat.num_lost >= 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it has no heartbeat"),
        ("{", "cannot be read"),
        ('{"rank": 1}', "cannot be read"),
    ],
)
def test_no_heartbeat_is_a_reason_and_not_an_error(text: str | None, reason: str, tmp_path: Path) -> None:
    if text is not None:
        path_of(tmp_path, 1).write_text(text)
    assert reason in str(read_pulse(tmp_path, 1, "run/0"))


def test_an_unknown_state_cannot_be_read(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path)
    heartbeat.start()
    heartbeat.close()
    path = path_of(tmp_path, 1)
    path.write_text(path.read_text().replace('"left"', '"asleep"'))
    assert "state='asleep'" in str(read_pulse(tmp_path, 1, "run/0"))
    with pytest.raises(ValueError, match="must be one of running, failed, left"):
        Pulse(rank=0, session="", state="asleep")


def test_a_heartbeat_of_another_attempt_says_nothing(tmp_path: Path) -> None:
    heartbeat = build_heartbeat(tmp_path)
    heartbeat.start()
    heartbeat.close()
    assert read_pulse(tmp_path, 1, "run/1") == "its heartbeat is of another attempt"


@pytest.mark.fault
@pytest.mark.parametrize("order", ["exception@phase=update,step=7", "exception@operation=all_sum,step=7"])
def test_a_drill_strikes_where_a_rank_says_that_it_is_and_before_it_counts_as_entered(
    tmp_path: Path, order: str
) -> None:
    plan = FaultPlan(parse_faults(order))
    heartbeat = Heartbeat(tmp_path, rank=1, session="run/0", every_s=60.0, faults=plan)
    heartbeat.enter("update", 6)
    heartbeat.enter_collective("all_sum")

    def go_on() -> None:
        heartbeat.enter("update", 7)
        heartbeat.enter_collective("all_sum")

    with pytest.raises(InjectedFaultError):
        go_on()
    assert (heartbeat.pulse.phase, heartbeat.pulse.step, heartbeat.pulse.counter) == ("update", 7, 1)
