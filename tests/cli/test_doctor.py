from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import doctor
from esper.runtime.doctor import HealthFinding


def test_findings_are_a_table_or_json(tmp_path: Path) -> None:
    assert call(["doctor", "--run-dir", str(tmp_path)]).out.startswith("This machine\ntopic ")
    findings = json.loads(call(["doctor", "--run-dir", str(tmp_path), "--json"]).out)
    assert {"topic", "name", "state", "detail"} == set(findings[0])
    assert {item["topic"] for item in findings} == {"version", "device", "data", "disk"}


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("problem", 2)])
def test_only_a_problem_fails(state: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(run_root: Path, data_dir: Path | None) -> tuple[HealthFinding, ...]:
        return (HealthFinding(topic="disk", name="runs", state=state, detail=""),)  # type: ignore[arg-type]

    monkeypatch.setattr(doctor, "collect_findings", collect)
    answer = call(["doctor"])
    assert answer.code == code
    assert answer.err == ("a run would fail: see runs\n" if code else "ready to run\n")


def test_an_unknown_argument_is_refused() -> None:
    assert call(["doctor", "--all"]).code == 2
