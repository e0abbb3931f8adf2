"""One host in two processes, from the command line: as one process grows it, stopped, killed, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from battery_rows import BatteryRecord
from cli.calling import call
from esper.leyline import ExitCode
from esper.nissa import effective_log
from esper.tolaria import CheckpointStore
from faults.launched import launch

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.fault]

SETTINGS = (
    *("heuristic", "--task", "synthetic", "--seed", "1", "--epochs", "12"),
    *("--heuristic.first-germination-epoch", "1", "--heuristic.germination-interval-epochs", "2"),
    *("--heuristic.no-is-stability-required", "--heuristic.min-incubation-epochs", "1"),
    *("--heuristic.tempo-epochs", "1", "--heuristic.min-judged-epochs", "1"),
    *("--heuristic.max-probation-epochs", "2", "--host.gates.min-incubation-epochs", "1"),
    *("--host.gates.min-probation-epochs", "1", "--host.lifecycle.min-cull-age-epochs", "1"),
    *("--checkpoint.every-epochs", "3", "--distributed.control-timeout-s", "60"),
    *("--distributed.gradient-timeout-s", "60"),
)
"""A life of seconds in which the heuristic plants, keeps or removes seeds."""
SHARED = (*SETTINGS, "--parallel", "host")
_MARKS = ('"RunStarted"', '"RunFinished"', '"CheckpointSaved"', '"Notice"')


def read_log(run_dir: Path) -> list[str]:
    """Return what counts of a run's log, without attempts and places where it was saved."""
    return [line for line in effective_log(run_dir) if not any(mark in line for mark in _MARKS)]


def read_end(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the last checkpoint."""
    store = CheckpointStore(run_dir / "checkpoints", kind="host-run", esper_version="test")
    return dict(store.load().record.tensors)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two processes that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = launch(run_dir, 2, *SHARED)
    assert ended.code == 0, ended.text
    return run_dir


def assert_same_life(one: Path, other: Path) -> None:
    assert read_log(one) == read_log(other)
    left, right = read_end(one), read_end(other)
    assert list(left) == list(right)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.battery("T24")
@pytest.mark.timeout(600)
def test_two_processes_grow_the_host_of_one(undisturbed: Path, tmp_path: Path) -> None:
    assert call(["train", *SETTINGS, "--run-dir", str(tmp_path / "alone")]).code == 0
    runs = (tmp_path / "alone", undisturbed)
    one, two = (json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs)
    moves = [
        [json.loads(line)["event"] for line in read_log(run) if '"StageChanged"' in line] for run in runs
    ]
    lives = [[(move["epoch"], move["slot"], move["new"]) for move in of_run] for of_run in moves]
    assert lives[0] == lives[1]
    assert {"GERMINATED", "TRAINING", "BLENDING"} <= {new for _, _, new in lives[0]}
    assert one["total_params"] == two["total_params"]
    left, right = read_end(runs[0]), read_end(runs[1])
    weights = [name for name in left if name.startswith("model.")]
    assert weights == [name for name in right if name.startswith("model.")]
    # Rounding alone, after hundreds of steps; single steps are compared to 1e-6 where ranks are threads.
    assert max(float((left[name] - right[name]).abs().max()) for name in weights) < 0.02


@pytest.mark.battery("T46")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("sigterm@rank=1,operation=step,step=4,call=3", ExitCode.SIGTERM),
        ("sigint@rank=0,phase=measure,step=7", ExitCode.SIGINT),
    ],
)
def test_a_signal_to_one_rank_stops_all_at_one_batch_and_a_resumed_run_ends_as_if_never_stopped(
    undisturbed: Path, tmp_path: Path, battery: BatteryRecord, fault: str, code: ExitCode
) -> None:
    run_dir = tmp_path / "run"
    ended = launch(run_dir, 2, *SHARED, faults=fault)
    battery.record(worst_s=ended.took_s)
    assert ended.code == code, ended.text
    assert {rank: verdict.code for rank, verdict in ended.verdicts.items()} == {0: code, 1: code}
    assert "stopped by a signal" in ended.text
    assert "; saved e0" in ended.text
    again = launch(run_dir, 2, "--resume", str(run_dir))
    assert again.code == 0, again.text
    assert_same_life(run_dir, undisturbed)


@pytest.mark.battery("T17")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_run_ends_as_if_undisturbed(
    undisturbed: Path, tmp_path: Path, battery: BatteryRecord, rank: int
) -> None:
    run_dir = tmp_path / "run"
    fault = f"kill@rank={rank},operation=step,step=7,attempt=0"
    ended = launch(run_dir, 2, *SHARED, faults=fault)
    battery.record(worst_s=ended.took_s)
    assert ended.code == 0, ended.text
    assert f"attempt 1: rank {rank} was killed by SIGKILL" in ended.text
    assert "restart 1 of 1 from checkpoint e0006-b00000" in ended.text
    assert_same_life(run_dir, undisturbed)
