"""What is killed without warning goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.calling import call

pytestmark = [pytest.mark.fault, pytest.mark.slow]

FLAGS = ("--task", "synthetic", "--epochs", "16", "--seed", "4", "--heuristic.first-germination-epoch", "1")
WAITED = ("--checkpoint.no-is-asynchronous",)
"""So that a checkpoint is on the disk before the line of the next epoch is printed."""
SAVED_EVERY_ROUND = ("--checkpoint.every-epochs", "1")


RESULTS = ("test_metrics", "last_validation_loss", "last_train_loss", "total_params", "flops", "fossils")
"""What of a summary must not depend on interruptions: numbers, not clocks."""


def read_results(run_dir: Path) -> dict[str, object]:
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return {name: summary[name] for name in RESULTS}


def kill_after_line(run_dir: Path, arguments: tuple[str, ...], beginning: str) -> int:
    """Start a run, read what it prints, and kill it once a line begins so; return its exit code."""
    command = [sys.executable, "-m", "esper", "train", *arguments, "--run-dir", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(beginning):
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
        return process.wait(timeout=60)


@pytest.mark.battery("T02")
def test_a_run_killed_without_warning_resumes_to_the_same_result(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert call(["train", "heuristic", *FLAGS, "--run-dir", str(whole)]).code == 0
    for name, saving in (("waited", WAITED), ("beside", SAVED_EVERY_ROUND)):
        killed = tmp_path / name
        assert kill_after_line(killed, ("heuristic", *FLAGS, *saving), "epoch 9/") == -signal.SIGKILL
        assert not (killed / "summary.json").exists()
        answer = call(["train", "heuristic", "--resume", str(killed)])
        assert answer.code == 0, answer.err
        assert read_results(whole) == read_results(killed)


POLICY_FLAGS = ("--task", "synthetic", "--epochs", "12", "--envs", "2", "--rounds", "3", "--seed", "4")
SMALL_POLICY = ("--network.hidden-size", "16", "--network.token-size", "8", "--network.core-size", "16")


@pytest.mark.battery("T02")
def test_a_policy_training_killed_without_warning_ends_in_the_same_weights_and_metrics(
    tmp_path: Path,
) -> None:
    flags = ("ppo", *POLICY_FLAGS, *SMALL_POLICY, *SAVED_EVERY_ROUND)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(["train", *flags, "--run-dir", str(whole)]).code == 0
    assert kill_after_line(killed, flags, "round 2 ") == -signal.SIGKILL
    assert not (killed / "policy").exists()
    answer = call(["train", "--resume", str(killed)])
    assert answer.code == 0, answer.err
    rounds = [json.loads((run / "training.json").read_text(encoding="utf-8")) for run in (whole, killed)]
    assert rounds[0] == rounds[1]
    # Weights are named by the hash of their bytes.
    names = [sorted(path.name for path in (run / "policy").iterdir()) for run in (whole, killed)]
    assert names[0] == names[1]
