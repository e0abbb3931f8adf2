from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.calling import call
from cli.results import make_result
from esper.cli import train
from esper.leyline import ConfigError, ExitCode, InterruptedRunError
from esper.runtime.config_file import provenance_of_preset, render_config
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.presets import build_preset
from esper.runtime.run import ExperimentResult
from esper.runtime.run_folder import RunFolder, RunOrigin


@dataclass(slots=True)
class FakeRun:
    """Stands in for `run_experiment` and keeps what it was called with."""

    configs: list[ExperimentConfig] = field(default_factory=list)
    provenance: Mapping[str, str] = field(default_factory=dict)
    rest: dict[str, object] = field(default_factory=dict)
    error: Exception | None = None

    def __call__(
        self,
        config: ExperimentConfig,
        *,
        run_dir: Path | None,
        provenance: Mapping[str, str],
        resume: bool = False,
        is_dry_run: bool = False,
        argv: Sequence[str] = (),
    ) -> ExperimentResult:
        self.configs.append(config)
        self.provenance = provenance
        self.rest = {"run_dir": run_dir, "resume": resume, "is_dry_run": is_dry_run, "argv": tuple(argv)}
        if self.error is not None:
            raise self.error
        return make_result(config.policy, run_dir or Path("runs/x"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRun:
    fake = FakeRun()
    monkeypatch.setattr(train, "run_experiment", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def _make_run(path: Path, *, error: Exception | None = None) -> ExperimentConfig:
    """A run directory whose run ended with `error`, and its configuration."""
    config = build_preset("synthetic")
    origin = RunOrigin(task="synthetic", policy="heuristic", seed=0)
    text = render_config(config, provenance_of_preset(config))
    folder = RunFolder.create(path, config_text=text, origin=origin)
    folder.__exit__(None if error is None else type(error), error, None)
    return config


STOPPED = InterruptedRunError("stopped", ExitCode.SIGTERM)


def test_the_command_line_becomes_one_call(runs: FakeRun) -> None:
    args = ["heuristic", "--task", "digits", "--epochs", "3", "--seed", "5", "--run-dir", "out"]
    args += ["--device", "cpu", "--amp", "bf16", "--compile", "default", "--data-dir", "sets"]
    answer = call(["train", *args])
    assert answer.code == 0
    (config,) = runs.configs
    assert (config.policy, config.seed, config.task.data_dir) == ("heuristic", 5, "sets")
    assert (config.host.epochs, config.host.device, config.host.amp) == (3, "cpu", "bf16")
    assert config.host.compile == "default"
    assert config.model == build_preset("digits").model
    assert runs.provenance["policy"] == runs.provenance["host.epochs"] == "flag"
    assert runs.rest == {
        "run_dir": Path("out"),
        "resume": False,
        "is_dry_run": False,
        "argv": ("train", *args),
    }


@pytest.mark.parametrize(
    "policy", ["heuristic", "random", "schedule", "never", "auto", "pretrained", "schedule:a.json", "a.b:C"]
)
def test_every_policy_is_a_word_of_its_own(policy: str, runs: FakeRun) -> None:
    assert call(["train", policy]).code == 0
    assert runs.configs[0].policy == policy
    assert runs.rest["run_dir"] is None


def test_without_a_policy_the_configuration_decides(runs: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('policy = "never"', encoding="utf-8")
    assert call(["train", "--config", "a.toml", "--dry-run"]).code == 0
    assert runs.configs[0].policy == "never"
    assert runs.rest["is_dry_run"] is True


def test_the_result_is_two_tables_or_json_and_the_next_step_is_a_note(runs: FakeRun) -> None:
    answer = call(["train", "never"])
    assert answer.out.startswith("Slots (contribution: ")
    assert "\nRun: digits, never, seed 3\n" in answer.out
    assert "{" not in answer.out
    assert answer.err == "next: esper runs show runs/x, or esper export runs/x -o model\n"
    assert json.loads(call(["train", "never", "--json"]).out) == make_result("never").to_json()


def test_a_dry_run_says_what_it_did(runs: FakeRun) -> None:
    answer = call(["train", "--dry-run"])
    assert answer.err.startswith("dry run: in 12 epochs one seed was forced to be kept and one to be culled")
    shown = call(["train", "--help"]).out
    assert "write nothing" in shown
    assert "train nothing" not in shown


def test_resuming_a_finished_run_says_so(runs: FakeRun, tmp_path: Path) -> None:
    _make_run(tmp_path / "old")
    answer = call(["train", "--resume", "old"])
    assert answer.code == 0
    assert answer.error_lines[0] == "old has finished already; nothing is left to train"


def test_print_config_runs_nothing(runs: FakeRun) -> None:
    answer = call(["train", "never", "--print-config"])
    assert 'policy = "never"  # flag\n' in answer.out
    assert runs.configs == []


def test_an_interrupted_run_returns_its_signal(runs: FakeRun) -> None:
    runs.error = InterruptedRunError("stopped at epoch 3", ExitCode.SIGINT)
    answer = call(["train", "never"])
    assert (answer.code, answer.out, answer.err) == (130, "", "esper: error: stopped at epoch 3\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["hueristic"], "unknown policy 'hueristic': did you mean 'heuristic'?"),
        (["never", "--policy", "random"], "--policy random says otherwise"),
        (["--resume", "x", "--preset", "digits"], "leave out --preset and --config"),
        (["--resume", "x", "--config", "a.toml"], "leave out --preset and --config"),
        (["--resume", "nowhere"], "nowhere is not a run"),
        (["--resume"], "no run in runs was stopped"),
        (["--resum"], "did you mean --resume"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_runs_nothing(
    args: list[str], message: str, runs: FakeRun, tmp_path: Path
) -> None:
    answer = call(["train", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert message in answer.err
    assert runs.configs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args", [["--resume", "old"], ["--resume", "--run-dir", "old"], ["never", "--resume", "old"]]
)
def test_resume_takes_the_configuration_of_the_run(args: list[str], runs: FakeRun, tmp_path: Path) -> None:
    config = _make_run(tmp_path / "old", error=STOPPED)
    assert call(["train", *args]).code == 0
    assert (runs.rest["run_dir"], runs.rest["resume"]) == (Path("old"), True)
    (resumed,) = runs.configs
    if "never" in args:
        assert (resumed.policy, runs.provenance["policy"]) == ("never", "flag")
    else:
        assert resumed == config


def _make_run_with_a_command(path: Path) -> None:
    _make_run(path, error=STOPPED)
    text = (path / "config.toml").read_text(encoding="utf-8")
    text = re.sub(r'on_alert = ""', 'on_alert = "touch stolen"', text)
    (path / "config.toml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("args", [["--resume", "old"], ["--config", "old/config.toml", "--run-dir", "new"]])
def test_a_command_that_a_run_directory_names_is_never_run(
    args: list[str], runs: FakeRun, tmp_path: Path
) -> None:
    _make_run_with_a_command(tmp_path / "old")
    answer = call(["train", *args])
    assert (answer.code, runs.configs[0].telemetry.on_alert) == (0, "")
    assert "names a command for alerts, which is not run" in answer.err


def test_a_command_for_alerts_is_given_again_on_resume(runs: FakeRun, tmp_path: Path) -> None:
    _make_run_with_a_command(tmp_path / "old")
    answer = call(["train", "--resume", "old", "--on-alert", "true --quietly"])
    assert (answer.code, runs.configs[0].telemetry.on_alert) == (0, "true --quietly")
    assert "names a command" not in answer.err


def test_a_command_of_a_users_own_file_is_taken(runs: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('telemetry.on_alert = "true"\n', encoding="utf-8")
    assert call(["train", "--config", "mine.toml"]).code == 0
    assert runs.configs[0].telemetry.on_alert == "true"


@pytest.mark.parametrize("command", ["no-such-program-here --now", "'not closed"])
def test_a_command_that_cannot_be_run_is_refused_before_anything_is_written(
    command: str, runs: FakeRun, tmp_path: Path
) -> None:
    answer = call(["train", "--on-alert", command])
    assert (answer.code, runs.configs, list(tmp_path.iterdir())) == (2, [], [])
    assert answer.err.count("\n") == 1
    assert "telemetry.on_alert" in answer.err


def test_resume_without_a_path_takes_the_newest_run_that_was_stopped(runs: FakeRun, tmp_path: Path) -> None:
    for name, error in (("a", STOPPED), ("b", STOPPED), ("c", None), ("d", ConfigError("x"))):
        _make_run(tmp_path / "runs" / name, error=error)
    assert call(["train", "--resume"]).code == 0
    assert runs.rest["run_dir"] == Path("runs/b")


def test_help_shows_own_flags_and_every_field(runs: FakeRun) -> None:
    shown = call(["train", "heuristic", "--help", "--task", "synthetic"]).out
    for text in ("--resume [PATH]", "--dry-run", "--epochs", "--checkpoint.every-epochs", "default: mlp"):
        assert text in shown
    assert runs.configs == []


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_no_time_is_refused_in_one_line(
    runs: FakeRun, tmp_path: Path, hours: str
) -> None:
    answer = call(["train", "never", f"--max-hours={hours}"])
    assert (answer.code, len(answer.error_lines)) == (2, 1)
    assert "max_hours" in answer.err
    assert (runs.configs, list(tmp_path.iterdir())) == ([], [])


def test_several_processes_that_would_each_train_a_host_of_their_own_are_refused(
    runs: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**places, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}.items():
        monkeypatch.setenv(name, value)
    answer = call(["train", "never"])
    assert (answer.code, len(answer.error_lines)) == (2, 1)
    assert "2 processes were started" in answer.err
    assert "--parallel host" in answer.err
    assert (runs.configs, list(tmp_path.iterdir())) == ([], [])
