"""A training of a policy on the screen and as JSON: `esper runs ls` and `esper runs show` of one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cli.calling import call
from cli.trainings import write_training
from esper.cli import runs
from esper.cli.output import render_plain
from esper.cli.training_view import MAX_NOTICES, render_training_list, render_training_tables
from esper.leyline import AnomalyFound, Event, Notice
from esper.nissa import compute_training_summary
from esper.runtime.run_records import RunInfo
from esper.tamiyo.policy_file import POLICY_FILE
from nissa.sample_run import numbered, run_events
from nissa.sample_training import started_training, training_events, updated

RUN_KEYS = (
    "path",
    "run_id",
    "task",
    "policy",
    "seed",
    "started_at",
    "state",
    "exit_code",
    "attempt",
    "problem",
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that shows every column, whatever the one is in which the tests run."""
    monkeypatch.setenv("COLUMNS", "130")


def finish_policy(path: Path) -> None:
    (path / "policy").mkdir()
    (path / "policy" / POLICY_FILE).write_text("{}", encoding="utf-8")


def show(events: list[Event], width: int = 100) -> str:
    summary = compute_training_summary(numbered(events))
    tables = render_training_tables(
        RunInfo(path=Path("runs/x"), task="digits", policy="ppo"), summary, has_policy=False, width=width
    )
    return "\n".join(map(render_plain, tables))


def test_a_training_is_shown_from_its_facts_to_its_troubles(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a", training_events())
    finish_policy(path)
    answer = call(["runs", "show", str(path)])
    assert answer.code == 0
    for line in (
        "rounds            20 of 20 in 0 s",
        "hosts             40 ended, 2 at a time, 10 epochs each",
        "learner           ppo, a policy of 51,000 parameters",
        "failed hosts      1 (diverged 1)",
        "quarantined rows  1",
        f"policy            {path / 'policy'}",
        "GERMINATE  25.0 %  25.0 %          120",
        "blind critic  in 2 rounds, 2 to 3, last 0.003 (threshold 0.050)  check gamma",
        "    3  environment 1 left out from step 4 on: the reward reached nan",
    ):
        assert f"{line}\n" in answer.out
    assert answer.err == (
        f"compare it on fresh hosts: esper evaluate --policy {path} heuristic "
        f"--config {path / 'config.toml'} --seeds 0-9\n"
    )


def test_curves_stand_beside_the_means_of_the_first_and_the_last_five_rounds() -> None:
    shown = show(list(training_events()))
    assert "rounds                       1-5   16-20  1-20\n" in shown
    rising = "\u2581\u2581\u2582\u2582\u2582\u2583\u2583\u2584\u2584\u2584\u2585\u2585\u2585\u2586\u2586"
    assert f"return per host            0.030   0.180  {rising}\u2587\u2587\u2587\u2588\u2588\n" in shown
    assert "explained variance        -0.700   0.800  " in shown
    assert "choices to WAIT           75.0 %  75.0 %  " in shown


@pytest.mark.parametrize(("width", "length"), [(40, 10), (60, 10), (80, 30), (400, 40)])
def test_a_curve_is_as_wide_as_the_terminal_allows(width: int, length: int) -> None:
    line = next(line for line in show(list(training_events(90)), width).splitlines() if "return per" in line)
    assert len(line.split()[-1]) == length


def test_a_training_of_one_round_has_one_column_of_means() -> None:
    shown = show([*training_events(9, 1)])
    assert "rounds                         1  1-1\n" in shown
    assert "operation       1  carried out\n" in shown


def test_a_training_that_has_just_begun_is_shown() -> None:
    shown = show([started_training()])
    assert "rounds            0 of 20 in 0 s\n" in shown
    assert "Rounds\nnone has ended yet\n\nOperations\nnone yet\n\nSigns of trouble\nnone\n" in shown
    assert "written when the last round has ended" in shown
    assert "Notices" not in shown


def test_what_was_never_known_is_a_dash() -> None:
    metrics = {"rollout/ep_rew_mean": 0.5}
    shown = show([started_training(), type(updated(1))(epoch=1, num_env_steps=20, metrics=metrics)])
    assert "gain over never growing       -\n" in shown


def test_only_the_newest_notices_are_shown() -> None:
    notices = [Notice(epoch=number, text=f"notice {number}.") for number in range(MAX_NOTICES + 3)]
    shown = show([started_training(), *notices])
    assert f"Notices (the last {MAX_NOTICES}; 3 more with --json)\n" in shown
    assert "notice 2." not in shown
    assert "notice 3." in shown


def test_a_stopped_training_says_how_to_go_on(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a", training_events(20, 4), state="interrupted")
    answer = call(["runs", "show", str(path)])
    assert "rounds            4 of 20" in answer.out
    assert answer.err == f"go on: esper train --resume {path}\n"


def test_a_training_as_json_has_stable_keys(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a", training_events(20, 4))
    shown = json.loads(call(["runs", "show", str(path), "--json"]).out)
    assert list(shown) == ["kind", "run", "training", "rounds", "policy_dir"]
    assert shown["policy_dir"] is None
    assert [row["round"] for row in shown["rounds"]] == [1, 2, 3, 4]
    assert shown["training"] == json.loads((path / "summary.json").read_text(encoding="utf-8"))
    finish_policy(path)
    assert json.loads(call(["runs", "show", str(path), "--json"]).out)["policy_dir"] == str(path / "policy")


def test_trainings_are_listed_below_the_runs_of_hosts(tmp_path: Path) -> None:
    write_training(tmp_path / "b", run_events(), policy="heuristic")
    alone = call(["runs", "ls", str(tmp_path)]).out
    write_training(tmp_path / "a", training_events(20, 4), state="interrupted")
    write_training(tmp_path / "c", [started_training()])
    both = call(["runs", "ls", str(tmp_path)])
    assert both.out.startswith(f"{alone}\nTrainings of policies in {tmp_path}\n")
    assert "a    digits  ppo         7  interrupted    4/20        0.040  " in both.out
    assert "c    digits  ppo         7  finished       0/20            -  " in both.out
    assert both.err == ""


def test_a_list_without_runs_of_hosts_is_one_table(tmp_path: Path) -> None:
    write_training(tmp_path / "a", training_events(2))
    assert call(["runs", "ls", str(tmp_path)]).out.startswith("Trainings of policies in ")


def test_a_narrow_terminal_gets_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path / "a", training_events(2))
    monkeypatch.setenv("COLUMNS", "60")
    table = call(["runs", "ls", str(tmp_path)]).out
    assert "run  task    state     rounds  last return\n" in table
    assert "a    digits  finished     2/2        0.020\n" in table


def test_listed_trainings_are_runs_with_more_keys(tmp_path: Path) -> None:
    write_training(tmp_path / "a", training_events(20, 4))
    write_training(tmp_path / "b", run_events(), policy="heuristic")
    listed = {
        Path(row["path"]).name: row for row in json.loads(call(["runs", "ls", str(tmp_path), "--json"]).out)
    }
    assert tuple(listed["b"]) == (*RUN_KEYS, "kind")
    assert tuple(listed["a"]) == (*RUN_KEYS, "kind", "num_rounds", "planned_rounds", "last_return")
    assert (listed["a"]["kind"], listed["a"]["num_rounds"], listed["a"]["last_return"]) == (
        "training",
        4,
        0.04,
    )


def test_a_training_whose_events_are_damaged_is_listed_with_its_problem(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a", training_events(2))
    (path / "events-1.jsonl").write_text("rubbish\nmore\n", encoding="utf-8")
    answer = call(["runs", "ls", str(tmp_path)])
    assert answer.code == 0
    assert "a    digits  ppo         7  finished       ?            -  " in answer.out
    assert answer.err.startswith("a: ")
    row = json.loads(call(["runs", "ls", str(tmp_path), "--json"]).out)[0]
    assert (row["num_rounds"], row["planned_rounds"], row["last_return"]) == (None, None, None)


def test_a_run_whose_events_cannot_be_opened_is_listed(tmp_path: Path) -> None:
    path = write_training(tmp_path / "a", [])
    (path / "events-0.jsonl").unlink()
    (path / "events-0.jsonl").mkdir()
    answer = call(["runs", "ls", str(tmp_path)])
    assert "a    digits  ppo        7  finished  " in answer.out
    assert answer.err == "a: its events cannot be read: Is a directory\n"


def test_an_output_without_blocks_gets_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_training(tmp_path / "a", training_events())
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    assert runs.run(["show", str(path)]) == 0
    screen.seek(0)
    assert "return per host            0.030   0.180  __....---" in screen.read()


def test_a_long_name_is_folded_and_never_cut() -> None:
    info = RunInfo(path=Path("runs") / ("x" * 90), task="digits", policy="ppo")
    table = render_training_list("runs", [(info, None)], width=60)
    assert table.is_folded
    assert table.rows[0][0] == "x" * 90


def test_a_sign_of_one_round_names_it_and_what_it_is_about() -> None:
    found = AnomalyFound(epoch=1, name="single_operation/WAIT", value=0.99, threshold=0.95, advice="look")
    shown = show([started_training(), updated(1), found])
    assert "single operation: WAIT  in round 1: 0.990 (threshold 0.950)  look\n" in shown
