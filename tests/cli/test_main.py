from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from cli.calling import call
from esper.cli.main import COMMANDS
from esper.leyline import ConfigError, DataError, ExitCode, InterruptedRunError


def _install(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every command raise `error`."""

    class Failing(ModuleType):
        def run(self, args: Sequence[str]) -> int:
            raise error

    monkeypatch.setattr(importlib, "import_module", lambda name: Failing(name))


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_names_every_command_on_stdout(flag: str) -> None:
    answer = call([flag])
    assert answer.code == 0
    assert all(f"\n  {name} " in answer.out for name in COMMANDS)
    assert answer.err == ""


def test_no_command_is_a_usage_error_with_help_on_stderr() -> None:
    answer = call([])
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("usage: esper")


def test_version_is_the_installed_one() -> None:
    assert call(["--version"]).out == f"esper-lite {importlib.metadata.version('esper-lite')}\n"


def test_an_unknown_command_names_the_nearest_one() -> None:
    answer = call(["trian"])
    assert answer.code == 2
    assert answer.error_lines == [answer.err.strip()]
    assert "did you mean 'train'?" in answer.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_opens_with_its_command_line(name: str) -> None:
    answer = call([name, "--help"])
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.startswith(f"usage: esper {name} ")
    assert "\nExample: esper " in answer.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("bad"), 2),
        (DataError("gone"), 3),
        (InterruptedRunError("stopped", ExitCode.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, error)
    answer = call(["doctor"])
    assert answer.code == code
    assert answer.out == ""
    assert answer.error_lines == [f"esper: error: {str(error) or 'interrupted'}"]


@pytest.mark.parametrize(("raised", "code"), [(SystemExit(2), 2), (SystemExit(), 0), (SystemExit("why"), 2)])
def test_a_parser_that_exits_becomes_a_return_code(
    raised: SystemExit, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, raised)
    assert call(["doctor"]).code == code


def test_an_error_of_several_lines_is_shown_clean_and_indented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(monkeypatch, DataError("first\n  second \x1b[31mred"))
    assert call(["doctor"]).err == "esper: error: first\n    second red\n"


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        call(["doctor"])


def test_a_closed_pipe_is_not_an_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "esper", "--help"], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_end)
    assert (answer.returncode, answer.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("args", "code"), [(["--version"], 0), (["nonsense"], 2), (["runs", "show", "nowhere"], 2)]
)
def test_the_module_runs_as_a_program(args: list[str], code: int) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "esper", *args], capture_output=True, text=True, check=False
    )
    assert answer.returncode == code
    assert "Traceback" not in answer.stderr
