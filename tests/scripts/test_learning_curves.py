"""Learning curves follow from the rows alone, and the same rows give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest

from cli.trainings import write_training
from esper.leyline import PolicyUpdated
from learning_curves import (
    KEPT_FIELDS,
    Level,
    compute_band,
    draw_curves,
    hash_settings,
    main,
    parse_level,
    read_source,
)
from nissa.sample_run import run_events
from nissa.sample_training import training_events
from study_rows import Row

CONFIG = "seed = {seed}\nnum_threads = {threads}\n[training]\ngamma = {gamma}\n"


def make_run(folder: Path, seed: int, *, told: int | None = None, gamma: float = 0.99) -> Path:
    """One training: its return is a hundredth of the round plus its seed."""
    events = [
        replace(event, metrics={**event.metrics, "rollout/ep_rew_mean": event.epoch / 100 + seed})
        if isinstance(event, PolicyUpdated)
        else event
        for event in training_events(4, told)
    ]
    text = CONFIG.format(seed=seed, threads=seed + 1, gamma=gamma)
    return write_training(folder / f"seed{seed}", events, seed=seed, config_text=text)


def row(seed: int, returns: Sequence[float | None]) -> Row:
    rounds = [
        {"round": place, "num_env_steps": 20 * place, "return": value, "gain": 0.1}
        for place, value in enumerate(returns, 1)
    ]
    return {"arm": "ppo", "task": "digits", "seed": seed, "protocol_hash": "p", "rounds": rounds}


def test_a_band_goes_from_the_lowest_seed_to_the_highest() -> None:
    band = compute_band([row(0, [1.0, 4.0]), row(1, [3.0, 0.0])], "return")
    assert (band.rounds, band.mean, band.low, band.high) == ((1, 2), (2.0, 2.0), (1.0, 0.0), (3.0, 4.0))


def test_only_rounds_that_every_seed_has_are_drawn() -> None:
    rows = [row(0, [1.0, None, 3.0, 4.0]), row(1, [1.0, 2.0, 3.0])]
    assert compute_band(rows, "return").rounds == (1, 3)
    assert b"only those that every seed has" in draw_curves(rows, {})
    assert b"only those" not in draw_curves(rows[1:], {})
    with pytest.raises(ValueError, match="no round in which all 2 seeds have a return"):
        compute_band([row(0, [None]), row(1, [1.0])], "return")


def test_the_picture_is_the_same_each_time_and_tells_no_date(tmp_path: Path) -> None:
    rows = [row(0, [1.0, 2.0]), row(1, [2.0, 1.0])]
    levels = {"gain": [Level(name="heuristic", value=0.03)], "return": [Level(name="a $b$ <c>", value=1.5)]}
    first = draw_curves(rows, levels)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.hashsalt": "other", "font.size": 20.0}):
        assert draw_curves(rows, levels) == first
    assert matplotlib.rcParams["svg.hashsalt"] is None
    text = first.decode()
    for shown in (
        "heuristic (+0.0300)",
        "a $b$ &lt;c&gt; (+1.5000)",
        "mean of 2 seeds",
        "training seeds 0, 1",
    ):
        assert shown in text
    for hidden in ("dc:date", "Matplotlib"):
        assert hidden not in text


def test_one_seed_has_no_band() -> None:
    text = draw_curves([row(5, [1.0, 2.0])], {}).decode()
    assert "training seed 5<" in text
    assert "lowest to highest" not in text


def test_runs_become_rows_that_give_the_same_picture(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path, seed)) for seed in (3, 2)]
    made, again, rows = (tmp_path / name for name in ("a.svg", "b.svg", "rows.jsonl"))
    assert main([*runs, "--output", str(made), "--rows", str(rows), "--gain-level", "heuristic=0.03"]) == 0
    assert main([str(rows), "--output", str(again), "--gain-level", "heuristic=0.03"]) == 0
    assert made.read_bytes() == again.read_bytes()
    written = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert [each["seed"] for each in written] == [2, 3]
    second = written[0]["rounds"][1]
    assert tuple(second) == tuple(sorted(KEPT_FIELDS))
    assert (second["round"], second["num_env_steps"]) == (2, 40)
    assert (second["return"], second["gain"]) == (pytest.approx(2.02), pytest.approx(0.004))


def test_an_unfinished_training_is_a_row_too(tmp_path: Path) -> None:
    (found,) = read_source(make_run(tmp_path, 1, told=2))
    assert found["rounds"] != []
    assert (found["arm"], found["task"], found["seed"]) == ("ppo", "digits", 1)


def test_settings_other_than_the_seed_change_the_hash() -> None:
    assert hash_settings({"seed": 1, "telemetry": {}, "a": 1}) == hash_settings({"seed": 2, "a": 1})
    assert hash_settings({"seed": 1, "a": 1}) != hash_settings({"seed": 1, "a": 2})


def refuse(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_runs_of_different_settings_or_of_one_seed_twice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "x.svg")]
    one, other = str(make_run(tmp_path, 1)), str(make_run(tmp_path, 2, gamma=0.9))
    assert "rows of different settings" in refuse([one, other, *output], capsys)
    assert "rows with the same" in refuse([one, one, *output], capsys)
    assert not (tmp_path / "x.svg").exists()


def test_what_is_no_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grown = str(write_training(tmp_path / "grown", run_events(), policy="heuristic"))
    output = ["--output", str(tmp_path / "x.svg")]
    assert "no round of the training of a policy" in refuse([grown, *output], capsys)
    assert "is not a run" in refuse([str(tmp_path), *output], capsys)
    assert "No such file" in refuse([str(tmp_path / "none"), *output], capsys)


@pytest.mark.parametrize("text", ["heuristic", "=1", "a=b", "a=nan", "a=inf"])
def test_a_level_that_is_no_name_and_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME=NUMBER|could not convert"):
        parse_level(text)
    assert parse_level("a=-0.5") == Level(name="a", value=-0.5)
