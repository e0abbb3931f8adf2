"""`esper dash`: bad arguments and a missing extra are one clear message, and nothing is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import dash


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--port", "x"], "invalid int value"),
        (["--port", "-1"], "expected 0 to 65535"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["no-such-folder"], "is not a folder"),
        (["--prot", "1"], "did you mean '--port'"),
    ],
)
def test_a_bad_argument_is_exit_2_and_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(["dash", *args])
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.error_lines) == 1


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dash, "find_spec", lambda name: None if name == "uvicorn" else object())
    answer = call(["dash", str(tmp_path)])
    assert answer.code == 2
    assert "needs uvicorn: pip install 'esper-lite[dashboard]'" in answer.err


def test_help_says_what_the_command_does() -> None:
    answer = call(["dash", "--help"])
    assert answer.code == 0
    assert "--export FILE.html" in answer.out
