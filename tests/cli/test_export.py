from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import export
from esper.leyline import ExportError, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeExport:
    text: str = "wrote m.pt2"

    def to_json(self) -> dict[str, JsonValue]:
        return {"path": "m.pt2"}


@pytest.mark.parametrize(
    ("flags", "allowed", "trusted"),
    [([], False, False), (["--allow-unfinished"], True, False), (["--trust-code"], False, True)],
)
def test_the_command_line_becomes_one_call(
    flags: list[str], allowed: bool, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[Path, Path, bool, bool]] = []

    def export_run(run: Path, target: Path, *, allow_unfinished: bool, is_code_trusted: bool) -> FakeExport:
        called.append((run, target, allow_unfinished, is_code_trusted))
        return FakeExport()

    monkeypatch.setattr(export, "export_run", export_run)
    answer = call(["export", "runs/a", "-o", "m.pt2", *flags])
    assert (answer.code, answer.out) == (0, "wrote m.pt2\n")
    assert called == [(Path("runs/a"), Path("m.pt2"), allowed, trusted)]
    assert json.loads(call(["export", "runs/a", "--output", "m.pt2", "--json", *flags]).out) == {
        "path": "m.pt2"
    }


def test_a_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Path, target: Path, **rest: bool) -> FakeExport:
        raise ExportError("block1 is BLENDING; give --allow-unfinished to leave it out")

    monkeypatch.setattr(export, "export_run", refuse)
    answer = call(["export", "runs/a", "-o", "m.pt2"])
    assert (answer.code, len(answer.error_lines)) == (2, 1)


@pytest.mark.parametrize("args", [[], ["runs/a"], ["-o", "x"], ["runs/a", "-o", "x", "more"]])
def test_a_wrong_command_line_is_one_line(args: list[str]) -> None:
    answer = call(["export", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (2, "", 1)
