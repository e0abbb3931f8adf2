from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import demo
from esper.leyline import DataError, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeDemo:
    text: str = "slot  seed\nblock1  conv\n"

    def to_json(self) -> dict[str, JsonValue]:
        return {"seeds": 1}


@pytest.mark.parametrize(("args", "run_dir"), [([], None), (["--run-dir", "out"], Path("out"))])
def test_the_demo_prints_its_table(
    args: list[str], run_dir: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Path | None] = []

    def run_demo(path: Path | None) -> FakeDemo:
        called.append(path)
        return FakeDemo()

    monkeypatch.setattr(demo, "run_demo", run_demo)
    answer = call(["demo", *args])
    assert (answer.code, answer.out, answer.err) == (0, FakeDemo().text, "")
    assert called == [run_dir]
    assert json.loads(call(["demo", *args, "--json"]).out) == {"seeds": 1}


def test_a_demo_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path | None) -> FakeDemo:
        raise DataError("digits are damaged")

    monkeypatch.setattr(demo, "run_demo", fail)
    answer = call(["demo"])
    assert (answer.code, answer.out, answer.err) == (3, "", "esper: error: digits are damaged\n")


def test_an_unknown_argument_is_refused() -> None:
    assert call(["demo", "--rundir", "x"]).code == 2
