"""`esper runs`: lists, and one run as tables and JSON; covers cli/run_view.py."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from cli.calling import call
from esper.leyline import (
    DecisionMade,
    EpochCompleted,
    Event,
    RunFinished,
    RunStarted,
    SeedFossilized,
    SeedGerminated,
    StageChanged,
)
from esper.nissa import EventHub, RunDirectoryBackend
from esper.runtime.run_folder import RunFolder, RunOrigin

_LIFE = ("DORMANT", "GERMINATED", "TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED")


def _stage(epoch: int, old: str, new: str) -> StageChanged:
    return StageChanged(epoch=epoch, slot="block1", seed_id="block1#1", old=old, new=new, reason="policy")


def _events() -> list[Event]:
    """One seed from birth to fossil in block1; block2 stays empty."""
    germinated = SeedGerminated(
        epoch=1,
        slot="block1",
        seed_id="block1#1",
        blueprint="conv_light",
        blend="add",
        num_params=1204,
        flops_per_item=50_000,
    )
    kept = SeedFossilized(
        epoch=5,
        slot="block1",
        seed_id="block1#1",
        blueprint="conv_light",
        num_params=1204,
        age_epochs=4,
        contribution=0.02,
        contribution_error=0.005,
        credit=0.01,
    )
    epoch = EpochCompleted(
        epoch=5,
        train_loss=0.5,
        validation_loss=0.6,
        metric=0.8,
        raw_metrics={"accuracy": 0.8},
        learning_rate=0.1,
        host_gradient_norm=1.0,
        total_params=9204,
        flops={"training": 1000},
    )
    return [
        RunStarted(
            epoch=0,
            task="digits",
            policy="heuristic",
            seed=0,
            horizon_epochs=5,
            host_params=8000,
            slots=("block1", "block2"),
        ),
        DecisionMade(
            epoch=1, op="GERMINATE", slot="block1", blueprint="conv_light", reason="plateau", confidence=1.0
        ),
        germinated,
        *(_stage(index + 1, old, new) for index, (old, new) in enumerate(pairwise(_LIFE))),
        kept,
        epoch,
        RunFinished(
            epoch=5,
            reason="horizon",
            test_metrics={"accuracy": 0.79},
            total_params=9204,
            flops={"training": 9},
        ),
    ]


def write_run(path: Path, events: list[Event]) -> Path:
    origin = RunOrigin(task="digits", policy="heuristic", seed=0)
    with RunFolder.create(path, config_text="", origin=origin) as folder:
        if events:
            backend = RunDirectoryBackend(path, run_id=folder.run_id)
            hub = EventHub([backend], folder.run_id)
            for event in events:
                hub.emit(event)
            hub.close()
    return path


def test_no_runs_are_an_empty_list(tmp_path: Path) -> None:
    answer = call(["runs", "ls", str(tmp_path / "none")])
    assert (answer.code, answer.out, answer.err) == (0, f"Runs in {tmp_path / 'none'}\nno such folder\n", "")
    assert "none; `esper demo` and `esper train` write runs" in call(["runs", "ls", str(tmp_path)]).out
    assert json.loads(call(["runs", "ls", str(tmp_path), "--json"]).out) == []


def test_runs_are_listed_and_unreadable_ones_named_on_stderr(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [])
    (write_run(tmp_path / "bad", []) / "status.json").write_text("{", encoding="utf-8")
    answer = call(["runs", "ls", str(tmp_path)])
    assert answer.code == 0
    assert "good  digits  heuristic     0  finished" in answer.out
    assert "+00:00" not in answer.out
    assert answer.err.startswith("bad: ")
    listed = {
        Path(item["path"]).name: item
        for item in json.loads(call(["runs", "ls", str(tmp_path), "--json"]).out)
    }
    assert (listed["good"]["state"], listed["bad"]["state"]) == ("finished", "")


def test_a_run_is_shown_as_tables(tmp_path: Path) -> None:
    shown = call(["runs", "show", str(write_run(tmp_path / "a", _events()))])
    assert (shown.code, shown.err) == (0, "")
    assert (
        "block1  block1#1  conv_light  FOSSILIZED  +0.0200 +- 0.0050       1,204       50 kFLOPs" in shown.out
    )
    assert "block2  -         -           DORMANT" + " " * 21 + "-           -               -" in shown.out
    assert "block1  block1#1  PROBATIONARY > FOSSILIZED  policy" in shown.out
    assert "test accuracy             79.0 %\n" in shown.out
    assert "compute                   9 FLOPs\n" in shown.out
    assert "state      finished (exit code 0)\n" in shown.out
    assert "resumed    never\n" in shown.out


def test_a_run_is_shown_as_json(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", _events())
    shown = json.loads(call(["runs", "show", str(path), "--json"]).out)
    assert set(shown) == {"run", "summary", "seeds", "lifecycle"}
    (seed,) = shown["seeds"]
    assert (seed["stage"], seed["contribution"], seed["num_params"]) == ("FOSSILIZED", 0.02, 1204)
    assert [step["new"] for step in shown["lifecycle"]] == list(_LIFE[1:])
    assert shown["summary"]["best_metric"] == 0.8


def test_a_live_seed_has_its_slots_stage(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", _events()[:5])
    (seed,) = json.loads(call(["runs", "show", str(path), "--json"]).out)["seeds"]
    assert (seed["stage"], seed["contribution"]) == ("TRAINING", None)
    assert "block1  block1#1  conv_light  TRAINING" in call(["runs", "show", str(path)]).out


def test_a_run_without_events_yet_is_shown(tmp_path: Path) -> None:
    answer = call(["runs", "show", str(write_run(tmp_path / "a", []))])
    assert (answer.code, answer.err) == (0, "")
    assert "Results\nnone\n\nSlots\nnone\n\nLifecycle\nnone\n" in answer.out


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", _events()[:5])
    status = json.loads((path / "status.json").read_text(encoding="utf-8"))
    text = json.dumps({**status, "state": "interrupted", "exit_code": 130, "attempt": 2})
    (path / "status.json").write_text(text, encoding="utf-8")
    answer = call(["runs", "show", str(path)])
    assert "interrupted (exit code 130)" in answer.out
    assert "2 times" in answer.out
    assert answer.err == f"go on: esper train --resume {path}\n"


def test_a_bad_line_is_named_on_stderr(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", _events())
    file = path / "events-0.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n", encoding="utf-8")
    answer = call(["runs", "show", str(path)])
    assert answer.code == 0
    assert answer.err.startswith("events-0.jsonl:2: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give one of ls, show"),
        (["list"], "unknown command 'list'"),
        (["show"], "the following arguments are required: RUN"),
        (["show", "/no/such"], "/no/such is not a run"),
        (["ls", "--jsn"], "did you mean '--json'?"),
    ],
)
def test_what_goes_wrong_is_one_line(args: list[str], message: str) -> None:
    answer = call(["runs", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert message in answer.err
