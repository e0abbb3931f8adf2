from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.calling import call
from cli.results import make_result
from esper.cli import demo
from esper.leyline import DataError
from esper.runtime.demo import DemoSummary
from esper.runtime.export_run import ExportSummary

SUMMARY = DemoSummary(
    grown=make_result(),
    never=make_result("never"),
    export=ExportSummary(
        target=Path("m.pt2"), checkpoint="e0012-b00000", num_params=2192, max_difference=2e-6
    ),
)


@pytest.mark.parametrize(("args", "run_dir"), [([], None), (["--run-dir", "out"], Path("out"))])
def test_the_demo_prints_slots_networks_and_the_export(
    args: list[str], run_dir: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Path | None] = []

    def run_demo(path: Path | None, *, say: Callable[[str], None]) -> DemoSummary:
        say("1 of 1")
        called.append(path)
        return SUMMARY

    monkeypatch.setattr(demo, "run_demo", run_demo)
    answer = call(["demo", *args])
    assert (answer.code, answer.err) == (0, "1 of 1\n")
    for text in (
        "\nblock1  conv ",
        "\nnever grew ",
        "\nexported m.pt2 (2,192 parameters",
        "\nrun directory: runs/x",
    ):
        assert text in answer.out
    assert called == [run_dir]
    shown = json.loads(call(["demo", *args, "--json"]).out)
    assert set(shown) == {"grown", "never", "export"}
    assert shown["export"]["max_difference"] == 2e-6


def test_a_demo_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path | None, *, say: Callable[[str], None]) -> DemoSummary:
        raise DataError("digits are damaged")

    monkeypatch.setattr(demo, "run_demo", fail)
    answer = call(["demo"])
    assert (answer.code, answer.out, answer.err) == (3, "", "esper: error: digits are damaged\n")


def test_an_unknown_argument_is_refused() -> None:
    assert call(["demo", "--rundir", "x"]).code == 2
