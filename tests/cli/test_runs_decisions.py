"""`esper runs decisions`: the list, one decision in full, JSON, and what it says where nothing fits."""

from __future__ import annotations

import json
from pathlib import Path

from cli.calling import call
from cli.test_runs import write_run
from esper.leyline import Event
from nissa.sample_run import decided
from nissa.test_decisions import LEARNED, START, paid

EVENTS: list[Event] = [START, decided(0, "WAIT"), paid(1), LEARNED, paid(2, 0.25)]


def test_the_list_tells_every_decision_and_its_reward(tmp_path: Path) -> None:
    answer = call(["runs", "decisions", str(write_run(tmp_path / "run", EVENTS))])
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == "Decisions"
    assert len(lines) == 4
    assert "ADVANCE block2" in lines[3]
    assert "+0.25" in lines[3]
    assert "0.9" in lines[3]


def test_a_single_decision_is_shown_in_full(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", EVENTS))
    out = call(["runs", "decisions", run, "--epoch", "1"]).out
    assert "ADVANCE <" in out
    assert "What it saw" in out
    assert "+0.25 (a +0.25), +0.25 so far" in out
    assert call(["runs", "decisions", run, "--last", "1"]).out == out


def test_json_holds_what_is_known(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", EVENTS))
    rows = json.loads(call(["runs", "decisions", run, "--json"]).out)
    assert [row["op"] for row in rows] == ["WAIT", "ADVANCE"]
    assert rows[1]["observation"] == {"epoch": 0.3}


def test_a_long_list_is_cut_and_says_so(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", [START, *(decided(epoch, "WAIT") for epoch in range(250))]))
    answer = call(["runs", "decisions", run])
    assert len(answer.out.splitlines()) == 2 + 200
    assert "the last 200 of 250" in answer.err
    assert len(call(["runs", "decisions", run, "--last", "250"]).out.splitlines()) == 2 + 250
    assert len(json.loads(call(["runs", "decisions", run, "--json"]).out)) == 250


def test_nothing_that_fits_is_said(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", EVENTS))
    answer = call(["runs", "decisions", run, "--epoch", "99"])
    assert (answer.code, "none on record that fit" in answer.out) == (0, True)


def test_a_wrong_number_is_refused(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", EVENTS))
    answer = call(["runs", "decisions", run, "--last", "0"])
    assert answer.code == 2
    assert "must be >= 1" in answer.err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    answer = call(["runs", "decisions", str(tmp_path / "none")])
    assert answer.code != 0
    assert "Traceback" not in answer.err
