"""`esper launch`: what it starts and how, and all that is refused before anything starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cli.calling import Answer, call
from esper.leyline import ExitCode
from esper.runtime import launching
from esper.runtime.config_file import render_config
from esper.runtime.launching import LaunchPlan
from esper.runtime.presets import build_preset
from esper.runtime.run_folder import RunFolder, RunOrigin

TRAIN = ("train", "ppo", "--task", "digits")
SMALL = (
    *("ppo", "--task", "synthetic", "--epochs", "12", "--envs", "2", "--rounds", "3", "--seed", "4"),
    *("--network.hidden-size", "16", "--network.token-size", "8", "--network.core-size", "16"),
    *("--checkpoint.every-epochs", "1"),
)


@dataclass(slots=True)
class FakeLaunch:
    """Stands in for `launch`, keeps the plan and returns a code."""

    code: ExitCode = ExitCode.OK
    plans: list[LaunchPlan] = field(default_factory=list)

    def __call__(self, plan: LaunchPlan, *, say: Callable[[str], None]) -> ExitCode:
        self.plans.append(plan)
        say("said")
        return self.code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLaunch:
    monkeypatch.chdir(tmp_path)
    stand_in = FakeLaunch()
    monkeypatch.setattr(launching, "launch", stand_in)
    return stand_in


def start(*args: str, num_ranks: str = "2", inner: Sequence[str] = TRAIN) -> Answer:
    return call(["launch", "--nproc-per-node", num_ranks, *args, "--", *inner])


def test_a_command_is_started_in_the_directory_that_it_names(fake: FakeLaunch) -> None:
    answer = start(inner=(*TRAIN, "--run-dir", "a"))
    assert (answer.code, answer.out, answer.err) == (0, "", "said\n")
    assert fake.plans == [LaunchPlan(args=(*TRAIN, "--run-dir", "a"), run_dir=Path("a"), num_ranks=2)]


def test_a_command_for_alerts_from_a_file_is_handed_on_to_every_restart(
    fake: FakeLaunch, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('telemetry.on_alert = "true --now"\n', encoding="utf-8")
    assert start(inner=(*TRAIN, "--config", "mine.toml")).code == 0
    assert fake.plans[0].args[-1] == "--telemetry.on-alert=true --now"


def test_a_command_without_a_directory_gets_one_below_runs_for_all_its_attempts(fake: FakeLaunch) -> None:
    assert start(inner=(*TRAIN, "--seed", "5")).code == 0
    (plan,) = fake.plans
    assert plan.run_dir.parent == Path("runs")
    assert plan.run_dir.name.startswith("digits-ppo-5-2")
    assert not plan.is_resumed


def test_a_resumed_run_is_gone_on_with(fake: FakeLaunch, tmp_path: Path) -> None:
    text = render_config(replace(build_preset("digits"), policy="ppo"), {})
    origin = RunOrigin(task="digits", policy="ppo", seed=0)
    RunFolder.create(tmp_path / "a", config_text=text, origin=origin).close()
    assert start(inner=("train", "--resume", "a")).code == 0
    (plan,) = fake.plans
    assert (plan.run_dir, plan.is_resumed) == (Path("a"), True)


def test_one_host_that_all_processes_share_can_be_launched(fake: FakeLaunch) -> None:
    inner = ("train", "never", "--task", "digits", "--parallel", "host", "--run-dir", "a")
    assert start(inner=inner).code == 0
    (plan,) = fake.plans
    assert plan.args == inner


def test_restarts_and_patience_can_be_set(fake: FakeLaunch) -> None:
    assert start("--max-restarts", "0", "--timeout-s", "7.5", num_ranks="4").code == 0
    (plan,) = fake.plans
    assert (plan.num_ranks, plan.max_restarts, plan.stop_timeout_s) == (4, 0, 7.5)


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 93, 130, 143])
def test_the_code_of_the_ranks_is_returned(code: int, fake: FakeLaunch) -> None:
    fake.code = ExitCode(code)
    assert start().code == code


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["launch"], "--nproc-per-node"),
        (["launch", "--nproc-per-node", "2"], "give the command to start after `--`"),
        (["launch", "--nproc-per-node", "2", "--"], "give the command to start after `--`"),
        (["launch", "--nproc-per-node", "2", "train", "ppo"], "unknown argument 'train'"),
        (["launch", "--nproc-per-node", "x", "--", *TRAIN], "invalid int value"),
        (["launch", "--nproc-per-node", "0", "--", *TRAIN], "--nproc-per-node 0: must be in [1, 256]"),
        (["launch", "--nproc-per-node", "-2", "--", *TRAIN], "must be in [1, 256]"),
        (["launch", "--nproc-per-nod", "2", "--", *TRAIN], "--nproc-per-node"),
        (["launch", "--", *TRAIN], "--nproc-per-node"),
        (["launch", "--nproc-per-node", "2", "--max-restarts", "-1", "--", *TRAIN], "must be >= 0"),
        (["launch", "--nproc-per-node", "2", "--timeout-s", "inf", "--", *TRAIN], "must be in (0, 86400]"),
        (["launch", "--nproc-per-node", "2", "--", "trian", "ppo"], "did you mean 'train'?"),
        (["launch", "--nproc-per-node", "2", "--", "evaluate"], "unknown command to launch 'evaluate'"),
        (["launch", "--nproc-per-node", "2", "--", "launch", "--", *TRAIN], "'launch'"),
        (["launch", "--nproc-per-node", "2", "--", "train", "heuristic"], "several processes train a policy"),
        (["launch", "--nproc-per-node", "2", "--", *TRAIN, "--sed", "1"], "--sed"),
        (["launch", "--nproc-per-node", "2", "--", *TRAIN, "--rounds", "-1"], "num_updates"),
        (["launch", "--nproc-per-node", "2", "--", *TRAIN, "--print-config"], "run them without launch"),
        (["launch", "--nproc-per-node", "2", "--", *TRAIN, "--help"], "run `esper train --help`"),
        (["launch", "--nproc-per-node", "2", "--", "train", "--resume", "gone"], "gone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_command_line_is_one_line_and_starts_nothing(
    args: list[str], text: str, fake: FakeLaunch, tmp_path: Path
) -> None:
    answer = call(args)
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert text in answer.err
    assert fake.plans == []
    assert list(tmp_path.iterdir()) == []


def test_help_and_refusals_of_its_own_arguments_need_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from esper.cli.main import main; codes = [main(['launch', '--help']), "
        "main(['launch', '--nproc-per-node', '2', '--', 'evaluate'])]; "
        "sys.exit(codes != [0, 2] or 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.fault
def test_a_training_whose_process_is_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call(["train", *SMALL, "--run-dir", str(whole)]).code == 0
    launcher = [sys.executable, "-m", "esper", "launch", "--nproc-per-node", "1", "--", "train", *SMALL]
    said = []
    with subprocess.Popen(
        [*launcher, "--run-dir", str(killed)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith("round 2 ") and not any(text.startswith("attempt 1: ") for text in said):
                os.kill(int((killed / "ranks" / "rank-0.pid").read_text(encoding="ascii")), signal.SIGKILL)
        assert process.wait(timeout=60) == 0, said
    found = [text for text in said if text.startswith("attempt ")]
    assert len(found) == 1
    assert re.match(
        r"attempt 1: rank 0 was killed by SIGKILL, last seen in phase \w+ of step \d+; "
        r"restart 1 of 3 from checkpoint e0",
        found[0],
    )
    results = [json.loads((run / "training.json").read_text(encoding="utf-8")) for run in (whole, killed)]
    assert results[0] == results[1]
    weights = [sorted(path.name for path in (run / "policy").iterdir()) for run in (whole, killed)]
    assert weights[0] == weights[1]
