"""`esper coalitions`: one call, two tables, one file's JSON; refusals are one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import coalitions
from esper.leyline import CheckpointError
from esper.nissa import CoalitionTable
from nissa.test_coalitions import TABLE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, object]]]:
    calls: list[tuple[Path, dict[str, object]]] = []

    def measure_run(run: Path, **settings: object) -> CoalitionTable:
        calls.append((run, settings))
        return TABLE

    monkeypatch.setattr(coalitions, "measure_run", measure_run)
    return calls


def test_the_command_line_becomes_one_call(asked: list[tuple[Path, dict[str, object]]]) -> None:
    answer = call(["coalitions", "runs/a", "--items", "50", "--orders", "9", "--seed", "3", "--trust-code"])
    assert answer.code == 0
    assert asked == [(Path("runs/a"), {"num_items": 50, "num_orders": 9, "seed": 3, "is_code_trusted": True})]
    assert "+0.0200 +- 0.0040" in answer.out
    assert "every subset, 360 validation items, 30 FLOPs" in answer.out


def test_json_is_the_file(asked: list[tuple[Path, dict[str, object]]]) -> None:
    answer = call(["coalitions", "runs/a", "--json"])
    assert json.loads(answer.out) == json.loads(json.dumps(TABLE.to_json()))
    assert asked[0][1]["num_items"] is None


def test_sampled_shares_and_no_fossil_say_so() -> None:
    shares, _ = coalitions.render_coalitions(replace(TABLE, num_orders=64))
    assert "64 random orders" in shares.title
    assert shares.rows[0][4] == "0.0000"
    shares, _ = coalitions.render_coalitions(replace(TABLE, shares=()))
    assert (shares.rows, shares.empty) == ((), "no seed was kept")


def test_a_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Path, **settings: object) -> CoalitionTable:
        raise CheckpointError(f"{run} has no checkpoint")

    monkeypatch.setattr(coalitions, "measure_run", refuse)
    answer = call(["coalitions", "runs/a"])
    assert (answer.code, len(answer.error_lines)) == (int(CheckpointError.exit_code), 1)


@pytest.mark.parametrize("args", [[], ["a", "b"], ["a", "--items", "x"], ["a", "--item", "3"]])
def test_a_wrong_command_line_is_one_line(args: list[str]) -> None:
    answer = call(["coalitions", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
