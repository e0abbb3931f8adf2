"""`esper dash` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from browser.recorded import esper

START_SECONDS = 60.0


@final
@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard that answers."""

    root: Path
    """Folder of the runs."""
    url: str
    """With the token: what a person opens first."""
    pid: int
    log: Path
    """What it printed so far."""

    @property
    def host(self) -> str:
        """Host and port, e.g. "127.0.0.1:8600"."""
        return urlsplit(self.url).netloc

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{self.host}"


@contextmanager
def serving(root: Path) -> Iterator[Dashboard]:
    """Serve the runs below a folder on a free port; ended on leaving, and it must end well."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder, "out"), Path(folder, "log")
        process = start_dashboard(root, out, log)
        try:
            url = wait_for_address(process, out, log)
            yield Dashboard(root=root, url=url, pid=process.pid, log=log)
            assert process.poll() is None, f"the dashboard ended by itself:\n{log.read_text('utf-8')}"
        finally:
            code = _end(process)
        text = log.read_text(encoding="utf-8")
        assert code in (0, 130), f"code {code}:\n{text}"
        assert "Traceback" not in text, text


def start_dashboard(root: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the process; what it prints goes to two files."""
    with out.open("wb") as stdout, log.open("wb") as stderr:
        return subprocess.Popen(
            esper("dash", root, "--port", 0, "--no-open"),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def wait_for_address(process: subprocess.Popen[bytes], out: Path, log: Path) -> str:
    """Return the one line that the dashboard prints."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = out.read_text(encoding="utf-8")
        if text.endswith("\n"):
            return text.strip()
        if process.poll() is not None:
            raise AssertionError(f"it ended with code {process.returncode}:\n{log.read_text('utf-8')}")
        threading.Event().wait(0.05)
    raise AssertionError(f"no address in {START_SECONDS} s:\n{log.read_text('utf-8')}")


def _end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
