"""For tests of streams that nobody reads: a dashboard that holds little, such clients, what a process has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, final
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from scipy.stats import theilslopes

from esper.cli.dashboard import index
from esper.cli.dashboard.store import RunStore
from esper.cli.main import main

BYTES_PER_MIB = 2**20
START_SECONDS = 60.0
_RECEIVE_BYTES = 4096


def serve_holding(max_records: str, root: str) -> None:
    """Serve the runs below a folder, and hold so few records of each that the bound is reached in seconds."""
    with mock.patch.object(index, "RunStore", partial(RunStore, max_weight=int(max_records))):
        raise SystemExit(main(["dash", root, "--port", "0", "--no-open"]))


def start_serving(root: Path, max_records: int, out: Path) -> subprocess.Popen[bytes]:
    """Start `serve_holding` in a process of its own; what it prints goes to a file."""
    tests = Path(__file__).parents[1]
    text = f"import sys; sys.path.insert(0, {str(tests)!r}); "
    text += "from faults import unread_streams; unread_streams.serve_holding(*sys.argv[1:])"
    with out.open("wb") as stdout:
        return subprocess.Popen(
            [sys.executable, "-c", text, str(max_records), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def wait_for_line(out: Path) -> str:
    """Return the first line of a file that another process writes."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = out.read_text(encoding="utf-8")
        if text.endswith("\n"):
            return text.strip()
        threading.Event().wait(0.05)
    raise AssertionError(f"nothing was printed in {START_SECONDS} s")


def open_stream(address: str, run_id: str) -> socket.socket:
    """Ask for the stream of a run as a browser with a small window does; nothing is read.

    Args:
        address: What the dashboard printed, with its token.
        run_id: Id of a run.
    """
    parts = urlsplit(address)
    token = parse_qs(parts.query)["token"][0]
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    client.settimeout(30.0)
    client.connect((parts.hostname, parts.port))
    lines = (
        f"GET /api/stream?run={run_id} HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Authorization: Bearer {token}",
        "Accept: text/event-stream",
    )
    client.sendall("\r\n".join((*lines, "", "")).encode())
    return client


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """What a process has at one moment."""

    seconds: float
    """Since some moment."""
    resident_bytes: int
    num_files: int


def look_at(process_id: int) -> Sample:
    """Read what a process has now."""
    place = Path("/proc") / str(process_id)
    pages = int((place / "statm").read_text(encoding="ascii").split()[1])
    num_files = len(os.listdir(place / "fd"))  # noqa: PTH208 - one call and no open folder
    return Sample(time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), num_files)


class Slope(NamedTuple):
    """MiB per hour, Theil-Sen, with the limits of its 95 % confidence interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:+.1f} MiB/h [{self.low:+.1f}, {self.high:+.1f}]"


def compute_slope(samples: Sequence[Sample]) -> Slope:
    """Return how fast resident memory grows."""
    hours = [sample.seconds / 3600 for sample in samples]
    sizes = [sample.resident_bytes / BYTES_PER_MIB for sample in samples]
    found = theilslopes(sizes, hours, alpha=0.95)
    return Slope(float(found[0]), float(found[2]), float(found[3]))
