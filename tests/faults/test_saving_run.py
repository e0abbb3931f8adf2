"""A run whose disk hangs, is too small for a while, or whose user asks for checkpoints by signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.calling import call
from esper.leyline import CheckpointFailed, CheckpointSaved
from esper.nissa import effective_log, read_run
from esper.runtime.run import run_experiment
from faults.saving_runs import often_saved, start
from faults.test_killed_run import FLAGS, read_results

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.dist]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `often_saved` on a disk without faults."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run_experiment(often_saved(), run_dir=run_dir, provenance={})
    return run_dir


def test_a_second_interrupt_ends_a_run_whose_disk_hangs_and_the_older_checkpoint_is_good(
    whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with start("hang_from_second_save_on", run_dir) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGINT)
        while process.poll() is None:  # the first asks for a checkpoint, which can never end
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 130
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"LATEST", "e0002-b00000"}
    run_experiment(often_saved(), run_dir=run_dir, provenance={}, resume=True)
    assert effective_log(run_dir) == effective_log(whole)


def test_a_run_goes_on_while_files_cannot_grow_and_saves_again_once_they_can(
    whole: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    (size,) = {path.stat().st_size for path in whole.glob("checkpoints/e0004-*/tensors.safetensors")}
    with start("run_with_small_files_at_first", run_dir, size - 1) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    events = [record.event for record in read_run(run_dir).records]
    failed = [event for event in events if isinstance(event, CheckpointFailed)]
    saved = [event.name for event in events if isinstance(event, CheckpointSaved)]
    assert "e0004-b00000" in [event.name for event in failed]
    assert all("File too large; it needs" in event.error and str(run_dir) in event.error for event in failed)
    assert saved[-2:] == ["e0006-b00000", "e0008-b00000"]
    left = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert left == {"LATEST", *saved}
    assert effective_log(run_dir) == effective_log(whole)


def test_a_process_saves_on_sigusr1_goes_on_leaves_on_sigterm_and_resumes_to_the_same_result(
    tmp_path: Path,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = ("heuristic", *FLAGS, "--checkpoint.every-epochs", "0")
    assert call(["train", *flags, "--run-dir", str(whole)]).code == 0
    command = [sys.executable, "-m", "esper", "train", *flags, "--run-dir", str(cut)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                process.send_signal(signal.SIGUSR1)
            elif line.startswith("epoch 9/"):
                process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    saved = sorted(path.name for path in (cut / "checkpoints").glob("e*"))
    assert len(saved) == 2, saved
    assert "e0002-b99999" < saved[0] < "e0009"
    assert saved[1] >= "e0008-b99999"
    answer = call(["train", "heuristic", "--resume", str(cut)])
    assert answer.code == 0, answer.err
    assert read_results(whole) == read_results(cut)
