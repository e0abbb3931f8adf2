"""Trainings in several processes under `esper launch`, with faults on order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import load_file

from esper.nissa import effective_log
from esper.runtime.config_file import render_config
from esper.runtime.ranks import DistributedConfig, RankVerdict, read_verdicts
from runtime.learning import tiny_training

PATIENCE_S = 400
TIMEOUT_S = 20.0
"""How long ranks wait for each other here: as long as a whole training takes on two free cores, so that none
is taken for lost on a machine that is many times busier."""
WAITS = DistributedConfig(
    init_timeout_s=120.0, gradient_timeout_s=TIMEOUT_S, control_timeout_s=TIMEOUT_S, heartbeat_every_s=0.5
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a launch came to."""

    code: int
    text: str
    """What the launcher and rank 0 said."""
    verdicts: dict[int, RankVerdict]
    took_s: float


def write_settings(folder: Path, *, num_envs: int, num_rounds: int = 3) -> Path:
    """Write the configuration of a training of seconds."""
    config = tiny_training(num_rounds)
    config = replace(config, envs=replace(config.envs, num_envs=num_envs), distributed=WAITS)
    path = folder / "training.toml"
    path.write_text(render_config(config, {}), encoding="utf-8")
    return path


def launch(run_dir: Path, num_ranks: int, *arguments: str, faults: str = "", max_restarts: int = 1) -> Ended:
    """Launch a training and wait for its end.

    Args:
        run_dir: Of the run.
        num_ranks: Processes.
        arguments: Of `esper train`, without the run directory.
        faults: On order, in the words of `FaultPlan`.
        max_restarts: Most restarts.
    """
    begun_s = time.monotonic()
    process = start(run_dir, num_ranks, *arguments, faults=faults, max_restarts=max_restarts)
    text, _ = process.communicate(timeout=PATIENCE_S)
    verdicts = {verdict.rank: verdict for verdict in read_verdicts(run_dir / "ranks").verdicts}
    return Ended(process.returncode, text, verdicts, time.monotonic() - begun_s)


def start(
    run_dir: Path, num_ranks: int, *arguments: str, faults: str = "", max_restarts: int = 1
) -> subprocess.Popen[str]:
    """Launch a training; the caller waits for it."""
    order = {"FAULTS": faults, "ESPER_ALLOW_FAULTS": "1"} if faults else {}
    where = () if "--resume" in arguments else ("--run-dir", str(run_dir))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "esper", "launch", "--nproc-per-node", str(num_ranks)),
            *("--max-restarts", str(max_restarts), "--timeout-s", "120", "--", "train", *arguments, *where),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **order},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_outcome(run_dir: Path) -> dict[str, object]:
    """Return what a training came to: every number of every round, and the bits of its policy."""
    weights = load_file(next((run_dir / "policy").glob("*.safetensors")))
    result = json.loads((run_dir / "training.json").read_text(encoding="utf-8"))
    return {
        "rounds": result["rounds"],
        "steps": result["num_env_steps"],
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "log": [line for line in effective_log(run_dir) if not _is_mark(line)],
    }


def _is_mark(line: str) -> bool:
    """Whether a line tells of attempts, of places where training was saved, or of a fault on order."""
    marks = ('"PolicyTrainingStarted"', '"RunFinished"', '"CheckpointSaved"', '"text": "a drill: ')
    return any(mark in line for mark in marks)
