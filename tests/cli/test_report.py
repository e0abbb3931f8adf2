"""`esper report`: files of one run, of a training, of several; on what goes on, and on what is no run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli.calling import call
from cli.trainings import write_training
from esper.leyline import RunStarted
from nissa.sample_run import numbered, run_events, write_run
from nissa.sample_training import training_events

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    folder.mkdir()
    write_run(folder, numbered(run_events()))
    return folder


def test_a_run_gets_a_page_and_a_text_with_figures(host: Path) -> None:
    answer = call(["report", str(host)])
    assert (answer.code, answer.err) == (0, "")
    names = ["report.html", "report.md", "timeline.svg", "costs.svg", "contributions.svg"]
    assert answer.out.splitlines() == [str(host / "report" / name) for name in names]
    assert sorted(path.name for path in (host / "report").iterdir()) == sorted(names)
    text = (host / "report" / "report.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in text for name in names[2:])


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--format", "html"], {"report.html"}),
        (
            ["--format", "md", "--figures", "png"],
            {"report.md", "timeline.png", "costs.png", "contributions.png"},
        ),
    ],
)
def test_formats_are_chosen(flags: list[str], names: set[str], host: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "deep"
    assert call(["report", str(host), "--out", str(target), *flags]).code == 0
    assert {path.name for path in target.iterdir()} == names
    assert not (host / "report").exists()


def test_the_same_run_gives_the_same_bytes(host: Path) -> None:
    call(["report", str(host)])
    first = {path.name: path.read_bytes() for path in (host / "report").iterdir()}
    call(["report", str(host)])
    assert {path.name: path.read_bytes() for path in (host / "report").iterdir()} == first


def test_json_is_data_and_writes_only_where_it_is_told_to(host: Path, tmp_path: Path) -> None:
    data = json.loads(call(["report", str(host), "--json"]).out)
    assert (data["kind"], data["files"], data["summary"]["task"]) == ("host", [], "digits")
    assert not (host / "report").exists()
    data = json.loads(
        call(["report", str(host), "--json", "--out", str(tmp_path / "o"), "--format", "html"]).out
    )
    assert data["files"] == [str(tmp_path / "o" / "report.html")]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    events = [replace(e, task=EVIL, slots=(EVIL,)) if isinstance(e, RunStarted) else e for e in run_events()]
    folder = tmp_path / "evil"
    folder.mkdir()
    write_run(folder, numbered(events))
    assert call(["report", str(folder)]).code == 0
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in (folder / "report" / "report.md").read_text(encoding="utf-8")


def test_a_run_that_goes_on_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path, numbered(list(run_events())[:60]))
    with (tmp_path / "events-0.jsonl").open("ab") as file:
        file.write(b'{"half a li')
    answer = call(["report", str(tmp_path)])
    assert answer.code == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "ended: unfinished" in text
    assert "torn line" in text


def test_a_bad_line_is_named_and_left_out(host: Path) -> None:
    path = host / "events-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"rubbish\n", *lines[3:]]))
    answer = call(["report", str(host)])
    assert answer.code == 0
    assert answer.err.startswith("events-0.jsonl:4: ")


def test_a_training_has_its_rounds(tmp_path: Path) -> None:
    training = write_training(tmp_path / "ppo", training_events(6))
    answer = call(["report", str(training)])
    assert answer.code == 0
    assert [Path(line).name for line in answer.out.splitlines()] == ["report.html", "report.md", "rounds.svg"]


def test_several_runs_are_compared(host: Path, tmp_path: Path) -> None:
    other = tmp_path / "b"
    other.mkdir()
    write_run(other, numbered(run_events()))
    out = tmp_path / "comparison"
    answer = call(["report", str(host), str(other), "--out", str(out)])
    assert answer.code == 0
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "fronts-0.svg"}
    data = json.loads(call(["report", str(host), str(other), "--json"]).out)
    assert [row["name"] for row in data["tasks"][0]["rows"]] == ["a", "b"]
    assert [point["name"] for point in data["tasks"][0]["params_front"]] == ["a", "b"]


def _damaged(folder: Path) -> list[str]:
    (folder / "events-0.jsonl").write_text("not a header\n{}\n", encoding="utf-8")
    return [str(folder)]


def _two(folder: Path) -> list[str]:
    return [str(folder), str(folder / "other")]


def _no_status(folder: Path) -> list[str]:
    path = write_training(folder / "t", training_events(2))
    (path / "status.json").write_text("[]", encoding="utf-8")
    return [str(path)]


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "expected a run directory", lambda folder: [str(folder)]),
        (2, "expected a run directory", lambda folder: [str(folder / "missing")]),
        (3, "is not the header of an event file", _damaged),
        (2, "say where with --out", _two),
        (2, "is damaged", _no_status),
        (2, "the following arguments are required: RUN", lambda folder: []),
        (2, "invalid choice", lambda folder: [str(folder), "--format", "pdf"]),
        (2, "unknown argument", lambda folder: [str(folder), "--shaply"]),
    ],
)
def test_what_is_no_run_is_one_message(code: int, words: str, arguments: object, tmp_path: Path) -> None:
    assert callable(arguments)
    answer = call(["report", *arguments(tmp_path)])
    assert (answer.code, answer.out, len(answer.error_lines)) == (code, "", 1)
    assert words in answer.err


@pytest.mark.parametrize("args", [["--help"], ["report", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom esper.cli.main import main\n"
        f"code = main({args!r})\nprint([code, [n for n in ('torch', 'matplotlib') if n in sys.modules]])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert answer.stdout.splitlines()[-1] == "[0, []]"
