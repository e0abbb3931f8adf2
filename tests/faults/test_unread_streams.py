"""Browsers that ask for a live run and never read: neither the training nor the dashboard grows by it.

Also holds what the tests use: tests/faults/unread_streams.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from esper.cli.dashboard.index import run_id_of
from faults.unread_streams import (
    BYTES_PER_MIB,
    Sample,
    compute_slope,
    look_at,
    open_stream,
    start_serving,
    wait_for_line,
)

NUM_CLIENTS = 4
MAX_RECORDS = 150
"""Held by the dashboard of each run: reached before the measurement begins."""
MAX_SHORT_GROWTH_BYTES = 3 * BYTES_PER_MIB
MAX_MIB_PER_HOUR = 1.0
SPARE_FILES = 6
"""Open for a moment while run files are looked at."""


@dataclass
class Scene:
    """A run in progress, a dashboard, browsers that never read and one that does."""

    trainer: int
    server: int
    address: str
    run_id: str
    clients: list[socket.socket] = field(default_factory=list)
    num_bytes_read: int = 0

    def replace_oldest_client(self) -> None:
        """One that does not read leaves, another one comes."""
        self.clients.pop(0).close()
        self.clients.append(open_stream(self.address, self.run_id))

    def read_on(self, client: socket.socket) -> None:
        """Read all that comes until it ends."""
        while data := client.recv(65536):
            self.num_bytes_read += len(data)


@contextmanager
def scene(root: Path) -> Iterator[Scene]:
    """Start everything; ended on leaving."""
    runs, out = root / "runs", root / "address"
    runs.mkdir()
    command = [sys.executable, "-m", "esper", "train", "heuristic", "--task", "digits", "--epochs", "1000000"]
    command += ["--telemetry.progress", "none", "--run-dir", str(runs / "run")]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    sockets: list[socket.socket] = []
    try:
        wait_for_records(runs / "run", 1)
        processes.append(start_serving(runs, MAX_RECORDS, out))
        shown = Scene(
            processes[0].pid, processes[1].pid, wait_for_line(out), run_id_of(runs / "run"), sockets
        )
        yield shown
        assert [process.poll() for process in processes] == [None, None]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
        for client in sockets:
            client.close()


def wait_for_records(run: Path, count: int) -> None:
    """Wait until a run has written so many records."""
    deadline = time.monotonic() + 240.0
    while time.monotonic() < deadline:
        files = list(run.glob("events-*.jsonl"))
        if files and files[0].read_bytes().count(b"\n") > count:
            return
        threading.Event().wait(0.2)
    raise AssertionError(f"{run} holds no {count} records after four minutes")


def measure(shown: Scene, *, seconds: float, interval: float) -> dict[str, list[Sample]]:
    """Look at both processes in even intervals, while one browser after the other comes and goes."""
    found: dict[str, list[Sample]] = {"training": [], "dashboard": []}
    begun = time.monotonic()
    for place in range(int(seconds / interval)):
        threading.Event().wait(max(0.0, begun + place * interval - time.monotonic()))
        found["training"].append(look_at(shown.trainer))
        found["dashboard"].append(look_at(shown.server))
        if place % 10 == 9:
            shown.replace_oldest_client()
    return found


def watch_unread(
    root: Path, *, warm_seconds: float, seconds: float, interval: float
) -> dict[str, list[Sample]]:
    """Let browsers look away for so long; return what both processes had meanwhile."""
    with scene(root) as shown:
        wait_for_records(root / "runs" / "run", 2 * MAX_RECORDS)
        shown.clients += [open_stream(shown.address, shown.run_id) for _ in range(NUM_CLIENTS)]
        reader = open_stream(shown.address, shown.run_id)
        reading = threading.Thread(target=shown.read_on, args=(reader,))
        reading.start()
        try:
            measure(shown, seconds=warm_seconds, interval=interval)
            read_before = shown.num_bytes_read
            found = measure(shown, seconds=seconds, interval=interval)
            assert shown.num_bytes_read > read_before, "the browser that reads was told nothing"
        finally:
            reader.shutdown(socket.SHUT_RDWR)
            reading.join()
            reader.close()
    return found


def expect_constant_files(found: dict[str, list[Sample]]) -> None:
    """Neither process opens more and more."""
    for name, samples in found.items():
        counts = [sample.num_files for sample in samples]
        half = len(counts) // 2
        assert max(counts[half:]) <= max(counts[:half]) + SPARE_FILES, (name, counts)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.battery("T40")
def test_browsers_that_never_read_cost_no_memory(tmp_path: Path, battery: BatteryRecord) -> None:
    seconds = 20.0
    found = watch_unread(tmp_path, warm_seconds=10.0, seconds=seconds, interval=0.5)
    for name, samples in found.items():
        slope = compute_slope(samples)
        growth = slope.middle * BYTES_PER_MIB * seconds / 3600
        battery.record(note=f"{name} {growth / BYTES_PER_MIB:+.2f} MiB in {seconds:.0f} s")
        assert growth < MAX_SHORT_GROWTH_BYTES, (name, slope)
    expect_constant_files(found)


@pytest.mark.soak
@pytest.mark.fault
@pytest.mark.timeout(4 * 3600)
@pytest.mark.battery("T40")
def test_memory_stays_for_hours_beside_browsers_that_never_read(
    tmp_path: Path, battery: BatteryRecord
) -> None:
    minutes = float(os.environ.get("ESPER_SOAK_MINUTES", "120"))
    found = watch_unread(tmp_path, warm_seconds=10 * minutes, seconds=50 * minutes, interval=5.0)
    for name, samples in found.items():
        slope = compute_slope(samples)
        battery.record(note=f"{name} {slope}")
        assert slope.middle < MAX_MIB_PER_HOUR or slope.low <= 0.0, (name, slope)
    expect_constant_files(found)


@pytest.mark.parametrize(("bytes_per_second", "expected"), [(0, 0.0), (1024, 3600 / 1024)])
def test_the_slope_of_a_leak_is_found(bytes_per_second: int, expected: float) -> None:
    samples = [Sample(second, 10**8 + bytes_per_second * second, 9) for second in range(0, 600, 5)]
    slope = compute_slope(samples)
    assert slope.middle == pytest.approx(expected, abs=1e-6)
    assert slope.low <= slope.middle <= slope.high


def test_files_that_are_never_closed_are_found() -> None:
    leak = [Sample(float(second), 10**8, 9 + second) for second in range(60)]
    with pytest.raises(AssertionError, match="dashboard"):
        expect_constant_files({"dashboard": leak})


def test_this_process_is_seen_as_it_is() -> None:
    before = look_at(os.getpid())
    with Path(__file__).open("rb"):
        assert look_at(os.getpid()).num_files == before.num_files + 1
