"""The job script of `examples/slurm`: what it starts, and when it asks to be started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import REPO

SCRIPT = REPO / "examples" / "slurm" / "train.sbatch"
SRUN = 'printf "%s\\n" "srun $*" >>"$CALLS"; exit "$CODE"'
SCONTROL = (
    'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else printf "%s\\n" "scontrol $*" >>"$CALLS"; fi'
)
WAITING = """
import signal, sys
def leave(number, frame):
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
signal.pause()
"""


class Job:
    """One start of the script with stand-ins for the queue's programs."""

    def __init__(self, folder: Path, *, srun: str = SRUN) -> None:
        self.run_dir, self.calls = folder / "run", folder / "calls"
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("srun", srun), ("scontrol", SCONTROL)):
            (programs / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        self.environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "RUN_DIR": str(self.run_dir),
            "SLURM_JOB_ID": "7",
        }

    def run(self, code: int = 0, **environ: str) -> tuple[int, list[str]]:
        """Exit code and what was called, in order."""
        done = subprocess.run(
            ["bash", SCRIPT, "ppo", "--seed", "3"],
            env=self.environ | {"CODE": str(code)} | environ,
            capture_output=True,
            check=False,
        )
        assert done.stderr == b""
        return done.returncode, self.calls.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_the_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 93, 130, 143])
def test_the_exit_code_decides_whether_the_job_is_requeued(code: int, job: Job) -> None:
    is_requeued = code in (4, 130, 143)
    returned, calls = job.run(code)
    assert calls[1:] == (["scontrol requeue 7"] if is_requeued else [])
    assert returned == (0 if is_requeued else code)


def test_requeuing_has_an_end(job: Job) -> None:
    assert job.run(143, SLURM_RESTART_COUNT="2", MAX_REQUEUES="3")[1][1:] == ["scontrol requeue 7"]
    job.calls.unlink()
    returned, calls = job.run(143, SLURM_RESTART_COUNT="3", MAX_REQUEUES="3")
    assert (returned, calls[1:]) == (143, [])


def test_a_run_that_has_begun_is_resumed_and_told_its_alert_command_again(job: Job) -> None:
    assert job.run()[1] == [f"srun esper train ppo --seed 3 --run-dir {job.run_dir}"]
    job.run_dir.mkdir()
    (job.run_dir / "meta.json").touch()
    assert job.run(ON_ALERT="page me")[1][1:] == [
        f"srun esper train --resume {job.run_dir} --on-alert page me"
    ]


def test_several_processes_on_one_machine_are_the_launchers(job: Job) -> None:
    assert job.run(NUM_RANKS="4")[1] == [
        f"srun esper launch --nproc-per-node 4 -- train ppo --seed 3 --run-dir {job.run_dir}"
    ]


@pytest.mark.parametrize(
    ("status", "returned", "is_requeued"),
    [
        ('{\n  "state": "interrupted",\n  "exit_code": 143,\n', 0, True),
        ('{\n  "state": "failed",\n  "exit_code": 93,\n', 93, False),
        ('{\n  "state": "running",\n  "exit_code": null,\n', 0, True),
    ],
)
def test_on_several_machines_the_run_tells_why_torchrun_failed(
    status: str, returned: int, is_requeued: bool, job: Job
) -> None:
    job.run_dir.mkdir()
    (job.run_dir / "status.json").write_text(status, encoding="utf-8")
    code, calls = job.run(1, SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="n[1-2]", NUM_RANKS="8")
    assert calls[0] == (
        "srun torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first:29400 "
        f"--max-restarts 3 --shutdown-timeout 90 -m esper train ppo --seed 3 --run-dir {job.run_dir}"
    )
    assert (code, len(calls) == 2) == (returned, is_requeued)


@pytest.mark.slow
@pytest.mark.fault
def test_the_signal_before_the_time_limit_is_handed_on_and_waited_for(tmp_path: Path) -> None:
    job = Job(tmp_path, srun=f'exec {sys.executable} -c "$WAITING"')
    with subprocess.Popen(
        ["bash", SCRIPT, "ppo"],
        env=job.environ | {"WAITING": WAITING},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "exit code 143: requeued\n"
    assert process.returncode == 0
    assert job.calls.read_text(encoding="utf-8") == "scontrol requeue 7\n"
