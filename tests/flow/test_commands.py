"""What a person does in a first session, through the real command line, from one command to the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.calling import call

LOADED_ELSEWHERE = """
import sys, torch
assert not any(name.split(".")[0] == "esper" for name in sys.modules)
module = torch.export.load(sys.argv[1]).module()
print(tuple(module(torch.zeros(3, 16)).shape))
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the heuristic, trained by the command line."""
    path = tmp_path_factory.mktemp("flow") / "runs" / "first"
    flags = [
        "--task",
        "synthetic",
        "--epochs",
        "14",
        "--seed",
        "3",
        "--heuristic.first-germination-epoch",
        "1",
    ]
    answer = call(["train", "heuristic", *flags, "--run-dir", str(path), "--json"])
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["run_dir"] == str(path)
    return path


def test_a_trained_run_is_listed_and_shown(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir.parent.parent)
    listed = call(["runs", "ls", "--json"])
    assert listed.code == 0
    assert run_dir.name in listed.out
    shown = call(["runs", "show", str(run_dir), "--json"])
    assert shown.code == 0
    summary = json.loads(shown.out)
    assert "synthetic" in json.dumps(summary)


def test_the_configuration_of_a_run_trains_the_same_run_again(run_dir: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    written = next(run_dir.glob("config*.toml"))
    answer = call(["train", "heuristic", "--config", str(written), "--run-dir", str(again), "--json"])
    assert answer.code == 0, answer.err
    first = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    second = json.loads((again / "summary.json").read_text(encoding="utf-8"))
    for name in ("test_metrics", "last_validation_loss", "flops", "fossils"):
        assert first[name] == second[name], name


@pytest.mark.slow
def test_an_exported_run_works_where_the_package_was_never_imported(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    answer = call(["export", str(run_dir), "-o", str(file)])
    assert answer.code == 0, answer.err
    command = [sys.executable, "-c", LOADED_ELSEWHERE, str(file)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert loaded.stdout.strip() == "(3, 4)", loaded.stderr


def test_a_dry_run_tries_every_path_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(["train", "heuristic", "--task", "synthetic", "--dry-run"])
    assert answer.code == 0, answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [["data", "list"], ["data", "check", "digits"], ["doctor"], ["config", "show", "--task", "digits"]],
    ids=" ".join,
)
def test_commands_that_only_look_answer_and_write_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(command)
    assert answer.code == 0, answer.err
    assert answer.out.strip()
    assert list(tmp_path.iterdir()) == []
