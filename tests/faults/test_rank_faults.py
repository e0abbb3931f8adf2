"""Trainings in several processes lose a rank, are started again, and end as if nothing had happened."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from esper.leyline import ExitCode
from esper.runtime.ranks.heartbeat import path_of
from esper.runtime.ranks.record_file import DamagedRecordError, read_record
from faults.launched import Ended, launch, read_outcome, start, write_settings

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.fault]

PHASES = {
    "rollout": "phase=rollout,step=1,call=4",
    "update": "operation=gradients,step=1,call=2",
    "save": "phase=save,step=2",
    "report": "operation=gather_bytes,phase=update,step=1",
}
"""Where in the second of three rounds a rank meets its fault."""


class Trained:
    """Undisturbed trainings of 2 and 3 ranks, to compare with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outcomes: dict[int, dict[str, object]] = {}
        self._took_s: dict[int, float] = {}

    def settings(self, num_ranks: int) -> Path:
        folder = self._folder / f"settings-{num_ranks}"
        folder.mkdir(exist_ok=True)
        return write_settings(folder, num_envs=num_ranks)

    def outcome(self, num_ranks: int) -> dict[str, object]:
        if num_ranks not in self._outcomes:
            run_dir = self._folder / f"undisturbed-{num_ranks}"
            ended = launch(run_dir, num_ranks, "ppo", "--config", str(self.settings(num_ranks)))
            assert ended.code == 0, ended.text
            self._outcomes[num_ranks] = read_outcome(run_dir)
            self._took_s[num_ranks] = ended.took_s
        return self._outcomes[num_ranks]

    def took_s(self, num_ranks: int) -> float:
        """Return what an undisturbed training takes here, from its start to its end."""
        self.outcome(num_ranks)
        return self._took_s[num_ranks]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def disturb(trained: Trained, run_dir: Path, num_ranks: int, fault: str, *, restarts: int = 1) -> Ended:
    """Train with a fault in the first attempt."""
    settings = str(trained.settings(num_ranks))
    return launch(
        run_dir, num_ranks, "ppo", "--config", settings, faults=f"{fault},attempt=0", max_restarts=restarts
    )


def assert_recovered(trained: Trained, run_dir: Path, num_ranks: int, ended: Ended, rank: int) -> None:
    """The rank was named, training was started again once, and its outcome is that of an undisturbed one."""
    assert ended.code == 0, ended.text
    first = next(line for line in ended.text.splitlines() if "attempt 1:" in line)
    # By what became of it; or, if it left as a witness once it could, by the word of the others.
    told = rf"attempt 1: rank ({rank} |\d left with code 4: rank {rank} stopped answering)"
    assert re.search(told, first), first
    assert "restart 1 of 1" in first
    assert read_outcome(run_dir) == trained.outcome(num_ranks)


@pytest.mark.battery("T16", "T17")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("num_ranks", "rank"), [(2, 0), (3, 1), (3, 2)])
def test_a_killed_rank_is_named_and_training_ends_as_if_undisturbed(
    trained: Trained, tmp_path: Path, battery: BatteryRecord, phase: str, num_ranks: int, rank: int
) -> None:
    ended = disturb(trained, tmp_path / "run", num_ranks, f"kill@rank={rank},{PHASES[phase]}")
    battery.record(worst_s=ended.took_s)
    assert "was killed by SIGKILL" in ended.text
    assert_recovered(trained, tmp_path / "run", num_ranks, ended, rank)


HANGS = [(kind, rank, phase) for kind in ("stop", "sleep", "gil") for rank in (0, 1, 2) for phase in PHASES]
SOME_HANGS = [("stop", 0, "rollout"), ("gil", 1, "update"), ("sleep", 2, "save"), ("sleep", 0, "report")]


@pytest.mark.battery("T18")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "rank", "phase"), SOME_HANGS)
def test_a_rank_that_hangs_is_named_and_training_ends_as_if_undisturbed(
    trained: Trained, tmp_path: Path, battery: BatteryRecord, kind: str, rank: int, phase: str
) -> None:
    ended = disturb(trained, tmp_path / "run", 3, f"{kind}@rank={rank},{PHASES[phase]}")
    battery.record(worst_s=ended.took_s)
    assert_recovered(trained, tmp_path / "run", 3, ended, rank)


@pytest.mark.soak
@pytest.mark.battery("T18")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "rank", "phase"), [hang for hang in HANGS if hang not in SOME_HANGS])
def test_every_rank_that_hangs_in_any_phase_is_named(
    trained: Trained, tmp_path: Path, battery: BatteryRecord, kind: str, rank: int, phase: str
) -> None:
    ended = disturb(trained, tmp_path / "run", 3, f"{kind}@rank={rank},{PHASES[phase]}")
    battery.record(worst_s=ended.took_s)
    assert_recovered(trained, tmp_path / "run", 3, ended, rank)


@pytest.mark.battery("T16")
@pytest.mark.timeout(600)
def test_without_restarts_the_exit_code_is_that_of_a_failed_rank(trained: Trained, tmp_path: Path) -> None:
    ended = disturb(trained, tmp_path / "run", 3, f"kill@rank=1,{PHASES['update']}", restarts=0)
    assert ended.code == ExitCode.RANK_FAILURE
    assert "rank 1 was killed by SIGKILL, last seen in phase update of step 1" in ended.text
    assert "esper launch --nproc-per-node 3 -- train --resume" in ended.text
    assert {rank: verdict.code for rank, verdict in ended.verdicts.items()} == {0: 4, 2: 4}
    assert all("rank 1 stopped answering" in verdict.reason for verdict in ended.verdicts.values())


@pytest.mark.battery("T27")
@pytest.mark.timeout(600)
def test_a_failure_that_comes_again_is_given_up_after_three_attempts_without_progress(
    trained: Trained, tmp_path: Path
) -> None:
    fault = "exception@rank=1,phase=update,step=1"
    settings = str(trained.settings(2))
    ended = launch(tmp_path / "run", 2, "ppo", "--config", settings, faults=fault, max_restarts=9)
    assert ended.code == ExitCode.NO_PROGRESS
    assert "3 attempts in a row saved nothing new" in ended.text
    assert "InjectedFaultError" in ended.verdicts[1].reason


def wait_for_phase(run_dir: Path, process: subprocess.Popen[str], rank: int, phase: str, step: int) -> int:
    """Return the process of a rank once it is in a phase."""
    pause = threading.Event()
    for _ in range(6_000):
        try:
            record = read_record(path_of(run_dir / "ranks", rank))
            if record["phase"] == phase and int(str(record["step"])) >= step:
                return int((run_dir / "ranks" / f"rank-{rank}.pid").read_text())
        except (FileNotFoundError, DamagedRecordError):
            pass
        assert process.poll() is None, process.communicate()[0]
        pause.wait(0.02)
    raise AssertionError(f"rank {rank} did not come to {phase} of step {step}")


@pytest.mark.battery("T46")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "to_rank"), [(signal.SIGTERM, None), (signal.SIGINT, 1)])
def test_a_stop_signal_to_the_launcher_or_to_one_rank_saves_one_place_of_all_ranks(
    trained: Trained, tmp_path: Path, number: signal.Signals, to_rank: int | None
) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, 2, "ppo", "--config", str(trained.settings(2)))
    pid = wait_for_phase(run_dir, process, 1, "rollout", 1)
    if to_rank is None:
        process.send_signal(number)
    else:
        os.kill(pid, number)
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + number, text
    assert "saved e0001-b0000" in text
    resumed = launch(run_dir, 2, "--resume", str(run_dir))
    assert resumed.code == 0, resumed.text
    assert read_outcome(run_dir) == trained.outcome(2)


@pytest.mark.battery("T12")
@pytest.mark.timeout(900)
def test_a_training_goes_on_with_another_number_of_processes_only_if_asked_to(
    trained: Trained, tmp_path: Path
) -> None:
    """Three, then two: environments are dealt anew, and the numbers stay but for the last bits."""
    run_dir, settings = tmp_path / "run", str(trained.settings(3))
    ended = launch(
        run_dir, 3, "ppo", "--config", settings, faults=f"kill@rank=1,{PHASES['update']}", max_restarts=0
    )
    assert ended.code == ExitCode.RANK_FAILURE
    refused = launch(run_dir, 2, "--resume", str(run_dir))
    assert refused.code == ExitCode.USAGE
    assert "saved by 3 processes, and here are 2" in refused.text
    resumed = launch(run_dir, 2, "--resume", str(run_dir), "--distributed.is-elastic")
    assert resumed.code == 0, resumed.text
    mine, whole = read_outcome(run_dir)["rounds"], trained.outcome(3)["rounds"]
    assert isinstance(mine, list)
    assert isinstance(whole, list)
    for left, right in zip(mine, whole, strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-4, nan_ok=True)


@pytest.mark.battery("T17")
@pytest.mark.timeout(600)
def test_under_torchrun_with_the_documented_setting_a_killed_rank_is_replaced(
    trained: Trained, tmp_path: Path
) -> None:
    run_dir, order = tmp_path / "run", f"kill@rank=1,{PHASES['update']},attempt=0"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
            *("-m", "esper", "train", "ppo", "--config", str(trained.settings(2)), "--run-dir", str(run_dir)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(sys.path),
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "FAULTS": order,
            "ESPER_ALLOW_FAULTS": "1",
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_outcome(run_dir) == trained.outcome(2)


@pytest.mark.timeout(900)
def test_a_late_rank_is_cut_short_where_that_is_asked_for(trained: Trained, tmp_path: Path) -> None:
    run_dir, settings = tmp_path / "run", str(trained.settings(3))
    # As long as a whole training, so that the others finish their rollout meanwhile however slow the machine
    # is; and far below what they wait for a rank, who is late and not lost. In the first round: whoever is
    # last is cut in every round, and what was late in one ends its episode in the next.
    late_s = math.ceil(trained.took_s(3))
    late = f"sleep@rank=2,phase=rollout,step=0,call=4,seconds={late_s},attempt=0"
    waits = [f"--distributed.{name}-timeout-s={10 * late_s}" for name in ("gradient", "control")]
    cut = ("--distributed.preempt-after-fraction", "0.6", *waits)
    ended = launch(run_dir, 3, "ppo", "--config", settings, *cut, faults=late, max_restarts=0)
    assert ended.code == 0, ended.text
    rounds = read_outcome(run_dir)["rounds"]
    assert isinstance(rounds, list)
    assert len(rounds) == 3
    # Three hosts of seven epochs; the late one has done three when the others are done.
    assert rounds[0]["rollout/num_steps"] < 21
    assert rounds[0]["rollout/num_episodes"] == 2
