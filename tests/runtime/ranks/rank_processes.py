"""Starts ranks as processes, waits for what they publish, and ends whatever is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from esper.runtime.ranks import Pulse
from esper.runtime.ranks.heartbeat import read_pulse

RUN_ID = "test"
PATIENCE_S = 180.0


class RankProcesses:
    """The ranks of one scenario of `worker`."""

    def __init__(self, scenario: str, folder: Path, world_size: int, *, victim: int = -1) -> None:
        self.folder, self.world_size, self.victim = folder, world_size, victim
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "runtime.ranks.worker", scenario, str(folder)],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "TORCHELASTIC_RUN_ID": RUN_ID,
                    "VICTIM": str(victim),
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, rank: int, *, phase: str, counter: int) -> None:
        """Return once a rank has published a phase and entered so many collectives."""
        for _ in range(int(PATIENCE_S / 0.02)):
            pulse = read_pulse(self.folder, rank, f"{RUN_ID}/0")
            if isinstance(pulse, Pulse) and pulse.phase == phase and pulse.counter >= counter:
                return
            assert self.processes[rank].poll() is None, self.processes[rank].communicate()[1]
            threading.Event().wait(0.02)
        raise AssertionError(f"rank {rank} did not enter {phase} within {PATIENCE_S} s: {pulse}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the victim."""
        self.processes[self.victim].send_signal(number)

    def ends(self, *, within_s: float, without_victim: bool = True) -> dict[int, tuple[int, str]]:
        """Return exit code and error text of each rank, the victim left out.

        Raises:
            TimeoutExpired: If one still runs after `within_s` seconds.
        """
        ranks = [rank for rank in range(self.world_size) if not (without_victim and rank == self.victim)]
        found, deadline = {}, time.monotonic() + within_s
        for rank in ranks:
            _, text = self.processes[rank].communicate(timeout=max(0.0, deadline - time.monotonic()))
            found[rank] = (self.processes[rank].returncode, text)
        return found
