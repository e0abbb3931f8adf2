from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from cli.calling import call
from cli.trainings import write_training
from esper.leyline import Event, RunFinished, RunStarted
from nissa.sample_run import EPOCHS, run_events
from nissa.sample_training import training_events


def _write(path: Path, events: Iterable[Event], *, seed: int = 0, policy: str = "heuristic") -> Path:
    text = f'seed = {seed}\npolicy = "{policy}"\n[host]\nepochs = {EPOCHS}  # flag\n'
    return write_training(path, events, policy=policy, seed=seed, config_text=text)


def _events(seed: int, accuracy: float) -> list[Event]:
    changed: list[Event] = []
    for event in run_events():
        if isinstance(event, RunStarted):
            event = replace(event, seed=seed)
        elif isinstance(event, RunFinished):
            event = replace(event, test_metrics={"accuracy": accuracy})
        changed.append(event)
    return changed


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two seeds of one policy, and one run of another."""
    return [
        str(_write(tmp_path / "a", _events(0, 0.8), seed=0)),
        str(_write(tmp_path / "b", _events(1, 0.9), seed=1)),
        str(_write(tmp_path / "c", _events(0, 0.7), seed=0, policy="never")),
    ]


def test_settings_figures_spreads_and_growth_stand_below_each_other(runs: list[str]) -> None:
    answer = call(["runs", "compare", *runs])
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Settings that differ\nsetting  a          b          c\n")
    assert "\npolicy   heuristic  heuristic  never\nseed     0          1          0\n" in answer.out
    assert "host.epochs" not in answer.out
    assert "\nOver seeds 0, 1 of a and 1 more like it\n" in answer.out
    (spread,) = (line.split() for line in answer.out.splitlines() if line.endswith("90.0 %     2"))
    assert spread == ["test", "accuracy", "85.0", "%", "7.1", "%", "80.0", "%", "90.0", "%", "2"]
    assert f"\nslot    run  epochs 0 to {EPOCHS}\n" in answer.out
    assert answer.out.count("........ttbbbpppppppFFFFFFFFFFFFFFFFFFFF\n") == 3


def test_json_holds_the_same(runs: list[str]) -> None:
    answer = call(["runs", "compare", *runs, "--json"])
    plain = json.loads(answer.out)
    assert set(plain) == {"schema_version", "runs", "differences", "groups", "num_epochs"}
    assert [row["key"] for row in plain["differences"]] == ["policy", "seed"]
    assert [(run["state"], run["figures"]["test_accuracy"]) for run in plain["runs"]] == [
        ("finished", 0.8),
        ("finished", 0.9),
        ("finished", 0.7),
    ]


def test_trainings_are_compared_by_their_returns(tmp_path: Path) -> None:
    paths = [str(_write(tmp_path / name, training_events(20), policy="ppo")) for name in "ab"]
    out = call(["runs", "compare", *paths]).out
    assert "Settings that differ\nnone\n" in out
    assert "\nrounds" in out
    assert "\na               0.200  " in out


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [str(_write(tmp_path / name / "x", run_events())) for name in ("one", "two")]
    names = [run["name"] for run in json.loads(call(["runs", "compare", *paths, "--json"]).out)["runs"]]
    assert names == paths


def test_a_run_without_events_is_compared_by_its_settings(tmp_path: Path, runs: list[str]) -> None:
    empty = str(_write(tmp_path / "d", [], seed=9))
    answer = call(["runs", "compare", runs[0], empty])
    assert (answer.code, answer.err) == (0, "")
    assert "\nseed     0  9\n" in answer.out


def test_names_cannot_steer_a_terminal(tmp_path: Path, runs: list[str]) -> None:
    path = Path(runs[0]) / "config.toml"
    path.write_text('policy = "\\u001b[31mred"\n', encoding="utf-8")
    assert "\x1b" not in call(["runs", "compare", *runs[:2]]).out


@pytest.mark.parametrize(
    ("text", "message"), [("[", "is not TOML"), (None, "cannot be read"), ("#" * (2**20 + 1), "is damaged")]
)
def test_a_damaged_configuration_is_one_line(text: str | None, message: str, runs: list[str]) -> None:
    path = Path(runs[0]) / "config.toml"
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    answer = call(["runs", "compare", *runs])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
    assert message in answer.err


def test_what_goes_wrong_is_one_line(runs: list[str]) -> None:
    for args, message in (
        ([], "the following arguments are required: RUN"),
        ([runs[0]], "name at least two runs"),
        ([runs[0], runs[0]], "a run is named twice"),
        ([runs[0], "/no/such"], "/no/such is not a run"),
        ([*runs, "--jsn"], "did you mean '--json'?"),
    ):
        answer = call(["runs", "compare", *args])
        assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
        assert message in answer.err
