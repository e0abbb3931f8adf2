from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import replay
from esper.leyline import DataError
from esper.runtime.config_file import render_config
from esper.runtime.event_comparison import Difference
from esper.runtime.replay import ReplayReport
from esper.runtime.run_folder import RunFolder, RunOrigin
from runtime.test_episode_log import EPOCHS, in_order, started, write_log
from runtime.test_run import tiny

Told = Callable[[int, int], None] | None


def make_report(
    difference: Difference | None = None, versions: tuple[str, str] | None = None
) -> ReplayReport:
    return ReplayReport(
        run_dir=Path("runs/a"),
        task="digits",
        policy="heuristic",
        seed=3,
        num_decisions=4,
        num_epochs=4,
        num_recorded_epochs=8,
        is_result_compared=False,
        difference=difference,
        other_versions={} if versions is None else {"torch": versions},
    )


def answer_with(monkeypatch: pytest.MonkeyPatch, report: ReplayReport) -> list[tuple[Path, int | None]]:
    called: list[tuple[Path, int | None]] = []

    def replay_run(
        run: Path, *, num_epochs: int | None, on_epoch: Told, is_code_trusted: bool
    ) -> ReplayReport:
        called.append((run, num_epochs))
        assert not is_code_trusted
        assert on_epoch is not None
        on_epoch(4, 8)
        return report

    monkeypatch.setattr(replay, "replay_run", replay_run)
    return called


def test_an_identical_run_is_said_to_be_one_and_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    called = answer_with(monkeypatch, make_report())
    answer = call(["replay", "runs/a", "--epochs", "4"])
    assert called == [(Path("runs/a"), 4)]
    assert answer.code == 0
    assert answer.out == "identical: 4 of 8 epochs on record, 4 decisions; no result compared\n"
    assert answer.err == "epoch 4 of 8: as on record\n"


def test_a_difference_is_named_with_both_values_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = Difference(epoch=5, quantity="validation_loss", recorded=0.5, replayed=0.25)
    answer_with(monkeypatch, make_report(difference, ("2.0", "2.1")))
    answer = call(["replay", "runs/a"])
    assert answer.code == replay.DIFFERS == 1
    assert answer.out == (
        "differs at epoch 5: validation_loss is 0.5 on record, 0.25 in the replay "
        "(relative difference 5.0e-01)\n"
        "identical before that: 4 of 8 epochs on record\n"
    )
    assert answer.error_lines[-1] == "the run was made with torch 2.0; here it is 2.1"


def test_the_report_is_printed_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = Difference(epoch=5, quantity="metric", recorded=0.5, replayed=float("nan"))
    called = answer_with(monkeypatch, make_report(difference))
    answer = call(["replay", "runs/a", "--json"])
    assert (answer.code, called) == (1, [(Path("runs/a"), None)])
    assert json.loads(answer.out) == {
        "run_dir": "runs/a",
        "task": "digits",
        "policy": "heuristic",
        "seed": 3,
        "is_identical": False,
        "num_decisions": 4,
        "num_epochs": 4,
        "num_recorded_epochs": 8,
        "is_result_compared": False,
        "difference": {"epoch": 5, "quantity": "metric", "recorded": 0.5, "replayed": None},
        "other_versions": {},
    }


@pytest.mark.parametrize(
    "args", [[], ["runs/a", "runs/b"], ["runs/a", "--epochs", "x"], ["runs/a", "--epoch", "1"]]
)
def test_a_wrong_command_line_is_one_line(args: list[str]) -> None:
    answer = call(["replay", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)


def test_a_run_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    answer = call(["replay", str(tmp_path)])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert "is not a run" in answer.err


@pytest.mark.parametrize("damage", ["lost", "torn", "decisions"])
def test_a_log_that_cannot_be_replayed_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    origin = RunOrigin(task="digits", policy="heuristic", seed=0)
    with RunFolder.create(tmp_path / "run", config_text=render_config(tiny(), {}), origin=origin) as folder:
        file = write_log(folder.path, in_order(started(), *EPOCHS)) / "events-0.jsonl"
    if damage == "lost":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(file.read_bytes().replace(b'"kind":"Epoch', b'"kind:"Epoch', 1))
    answer = call(["replay", str(folder.path)])
    assert answer.code == (2 if damage == "lost" else 3)
    assert (answer.out, len(answer.error_lines)) == ("", 1)
    assert str(folder.path) in answer.err


def test_missing_data_exits_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Path, **rest: object) -> ReplayReport:
        raise DataError("fashion_mnist is not there")

    monkeypatch.setattr(replay, "replay_run", refuse)
    answer = call(["replay", "runs/a"])
    assert (answer.code, answer.err) == (3, "esper: error: fashion_mnist is not there\n")


def test_a_short_run_is_trained_and_replayed_by_the_command_line(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    flags = ["--task", "synthetic", "--epochs", "2", "--run-dir", run, "--telemetry.progress", "none"]
    assert call(["train", "heuristic", *flags]).code == 0
    answer = call(["replay", run])
    assert answer.code == 0, answer
    assert answer.out == "identical: 2 of 2 epochs on record, 2 decisions, and the result\n"
    assert answer.error_lines == ["epoch 1 of 2: as on record", "epoch 2 of 2: as on record"]
