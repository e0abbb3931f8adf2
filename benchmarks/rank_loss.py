"""How long the others take to leave when one of several processes is lost: killed, or stopped.

    python benchmarks/rank_loss.py OUT.json --timeout-s 15

Trains a small policy under `esper launch` with two and three processes, without restarts. Once the training
is in a rollout or an update of its second round, one of the processes gets SIGKILL or SIGSTOP, and the clock
runs from there until the last of the others has ended: within the timeout and five seconds. The launcher,
which gives a process that was stopped time to save before it kills it, must then end with code 4 and name the
lost rank. A busy machine lengthens all this. Reads /proc, so it runs on Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from esper.runtime.config_file import render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.ranks.heartbeat import path_of
from esper.runtime.ranks.record_file import DamagedRecordError, read_record

ALLOWED_S = 5.0
"""Seconds beyond the timeout."""


class Loss(NamedTuple):
    """One lost process."""

    num_ranks: int
    rank: int
    signal: str
    phase: str
    seconds: float
    """Until the last of the others had ended."""
    launcher_seconds: float
    code: int
    is_named: bool


def main() -> int:
    parser = argparse.ArgumentParser(description="Seconds until all processes have left a lost one.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--timeout-s", type=float, default=15.0)
    parser.add_argument("--phases", nargs="+", default=["rollout", "update"])
    arguments = parser.parse_args()
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        for num_ranks in (2, 3):
            for rank in range(num_ranks):
                for name in ("SIGKILL", "SIGSTOP"):
                    for phase in arguments.phases:
                        run_dir = Path(folder) / f"{num_ranks}-{rank}-{name}-{phase}"
                        losses.append(lose(run_dir, num_ranks, rank, name, phase, arguments.timeout_s))
                        print(losses[-1], file=sys.stderr)
    limit = arguments.timeout_s + ALLOWED_S
    late = [loss for loss in losses if loss.seconds > limit or loss.code != 4 or not loss.is_named]
    rows = [loss._asdict() for loss in losses]
    report = {"timeout_s": arguments.timeout_s, "limit_s": limit, "losses": rows}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    longest = max(loss.seconds for loss in losses)
    print(f"{len(losses)} losses, longest {longest:.1f} s, {len(late)} late or unnamed")
    return 1 if late else 0


def lose(run_dir: Path, num_ranks: int, rank: int, name: str, phase: str, timeout_s: float) -> Loss:
    """Train, lose one process, and wait for the launcher."""
    run_dir.parent.mkdir(exist_ok=True)
    settings = run_dir.with_suffix(".toml")
    settings.write_text(render_config(_settings(num_ranks, timeout_s), {}), encoding="utf-8")
    command = [sys.executable, "-m", "esper", "launch", "--nproc-per-node", str(num_ranks)]
    command += ["--max-restarts", "0", "--timeout-s", str(timeout_s), "--", "train", "ppo"]
    command += ["--config", str(settings), "--run-dir", str(run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    pid = _wait_for(run_dir, process, rank, phase)
    ranks = run_dir / "ranks"
    others = [int((ranks / f"rank-{other}.pid").read_text()) for other in range(num_ranks) if other != rank]
    pause = threading.Event()
    begun_s = time.monotonic()
    os.kill(pid, getattr(signal, name))
    while any(map(_is_running, others)):
        pause.wait(0.02)
    seconds = time.monotonic() - begun_s
    text, _ = process.communicate(timeout=20 * timeout_s)
    launcher_seconds = time.monotonic() - begun_s
    is_named = f"rank {rank}" in text
    return Loss(num_ranks, rank, name, phase, seconds, launcher_seconds, process.returncode, is_named)


def _is_running(pid: int) -> bool:
    """Whether a process still runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _settings(num_ranks: int, timeout_s: float) -> ExperimentConfig:
    config = build_preset("digits")
    host = replace(config.host, epochs=6)
    training = replace(config.training, num_updates=50)
    distributed = replace(config.distributed, gradient_timeout_s=timeout_s, control_timeout_s=timeout_s)
    return replace(
        config,
        policy="ppo",
        host=host,
        training=training,
        distributed=distributed,
        envs=replace(config.envs, num_envs=num_ranks),
    )


def _wait_for(run_dir: Path, process: subprocess.Popen[str], rank: int, phase: str) -> int:
    """Return the process of a rank once it is in a phase of the second round or later."""
    pause = threading.Event()
    while process.poll() is None:
        try:
            record = read_record(path_of(run_dir / "ranks", rank))
            if record["phase"] == phase and int(str(record["step"])) >= 1:
                return int((run_dir / "ranks" / f"rank-{rank}.pid").read_text())
        except (FileNotFoundError, DamagedRecordError):
            pass
        pause.wait(0.01)
    raise RuntimeError(f"the training ended before {phase}: {process.communicate()[0]}")


if __name__ == "__main__":
    sys.exit(main())
