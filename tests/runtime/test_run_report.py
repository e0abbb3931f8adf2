"""`esper.open_run`: what a run's files tell as a plain object, its example included; several side by side."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import esper
from cli.trainings import write_training
from esper.leyline import ConfigError, DataError, EpochCompleted, RunDirectoryError
from esper.nissa import write_coalitions
from esper.runtime import run_report
from esper.runtime.run_report import RunReport, open_comparison, open_run
from nissa.sample_run import EPOCHS, numbered, run_events, write_run
from nissa.sample_training import training_events
from nissa.test_coalitions import TABLE


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    write_run(folder, numbered(run_events()))
    return folder


@pytest.fixture
def training(tmp_path: Path) -> Path:
    return write_training(tmp_path / "ppo", training_events(6))


def test_the_example_in_the_docstring_is_true(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.parents[1])
    (found,) = [test for test in doctest.DocTestFinder().find(open_run, globs={}) if test.examples]
    assert len(found.examples) == 7
    assert doctest.DocTestRunner().run(found).failed == 0


def test_it_leaves_by_the_front_door() -> None:
    assert esper.open_run is open_run
    assert esper.RunReport is RunReport


def test_a_run_is_its_curves_slots_seeds_and_decisions(host: Path) -> None:
    run = open_run(str(host))
    assert (run.kind, run.info, run.coalitions) == ("host", None, None)
    assert run.curves.epochs == tuple(range(1, EPOCHS + 1))
    assert list(run.slots) == ["block1", "block2", "block3"]
    assert [seed.outcome for seed in run.seeds] == ["fossilized", "culled", "culled"]
    assert run.blueprints[0].blueprint == "conv_light"
    assert sum(decision.op == "WAIT" for decision in run.decisions) == EPOCHS
    assert run.rounds.rounds == ()


def test_everything_is_json(host: Path, training: Path) -> None:
    write_coalitions(host, TABLE)
    data = json.loads(json.dumps(open_run(host).to_dict(), allow_nan=False))
    assert data["summary"]["num_fossilized"] == 1
    assert len(data["curves"]["metric"]) == EPOCHS
    assert data["coalitions"]["shares"][0]["slot"] == "block2"
    told = json.loads(json.dumps(open_run(training).to_dict(), allow_nan=False))
    assert (told["kind"], len(told["rounds"]), told["run"]["task"]) == ("training", 6, "digits")


def test_numbers_that_are_not_finite_are_none_in_json(tmp_path: Path) -> None:
    events = [replace(e, train_loss=math.nan) if isinstance(e, EpochCompleted) else e for e in run_events()]
    write_run(tmp_path, numbered(events))
    data = json.loads(json.dumps(open_run(tmp_path).to_dict(), allow_nan=False))
    assert data["curves"]["train_loss"] == [None] * EPOCHS


def test_it_names_itself_in_one_line(host: Path, training: Path) -> None:
    assert repr(open_run(host)).endswith("digits': digits by heuristic, 40 of 40 epochs, 1 fossils)")
    assert repr(open_run(training)).endswith("ppo': training, 6 of 6 rounds)")


def test_plot_returns_the_figure_that_is_asked_for(host: Path, training: Path) -> None:
    run = open_run(host)
    assert len(run.plot().axes) == 3  # metric, loss, slots
    assert run.plot("contributions").axes[0].get_yticklabels()
    assert len(open_run(training).plot().axes) == 4
    with pytest.raises(ConfigError, match="no figure 'rounds'; it has timeline, costs, contributions"):
        run.plot("rounds")


def test_a_training_without_a_round_has_no_figure(tmp_path: Path) -> None:
    begun = write_training(tmp_path / "begun", training_events(6, told_rounds=0))
    with pytest.raises(ConfigError, match="it has none yet"):
        open_run(begun).plot()


def test_a_notebook_shows_facts_and_figures(host: Path) -> None:
    shown = open_run(host)._repr_html_()
    assert "<h3>Growth run: digits</h3>" in shown
    assert shown.count("<img ") == 3
    assert "<script" not in shown


def test_the_report_goes_into_the_run(host: Path) -> None:
    files = open_run(host).write(formats=("html",))
    assert files == (host / "report" / "report.html",)
    assert b"data:image/svg+xml" in files[0].read_bytes()


def test_a_folder_that_cannot_be_written_is_named(host: Path) -> None:
    (host / "report").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        open_run(host).write()


def test_what_is_no_run_is_refused(tmp_path: Path, host: Path) -> None:
    with pytest.raises(RunDirectoryError, match="expected a run directory"):
        open_run(tmp_path)
    (host / "coalitions.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"coalitions\.json is damaged"):
        open_run(host)


def test_several_runs_stand_side_by_side(host: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "digits"  # the same name
    other.mkdir(parents=True)
    write_run(other, numbered(run_events()))
    data, document = open_comparison([host, other])
    assert document.title == "2 growth runs: digits"
    tasks = data["tasks"]
    assert isinstance(tasks, list)
    (task,) = tasks
    assert isinstance(task, Mapping)
    rows = task["rows"]
    assert isinstance(rows, tuple)
    assert {row["name"] for row in rows if isinstance(row, Mapping)} == {str(host), str(other)}


def test_what_cannot_be_compared_is_refused(host: Path, training: Path) -> None:
    with pytest.raises(ConfigError, match="trained a policy"):
        open_comparison([host, training])
    with pytest.raises(ConfigError, match="named twice"):
        open_comparison([host, host / "." / "../digits"])


def test_pages_name_their_maker() -> None:
    assert run_report.made_by().startswith("Made by esper-lite ")
