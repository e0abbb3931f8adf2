"""A user's command gets the facts by stdin and variables, a limited time, and no shell."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from esper.leyline import ConfigError
from esper.nissa import AlertCommand, check_command
from esper.nissa.alert_command import split_command

WRITE = """
import json, os, sys
from pathlib import Path
facts = {name: value for name, value in os.environ.items() if name.startswith("ESPER_")}
Path(sys.argv[1]).write_text(json.dumps([sys.argv[2:], sys.stdin.read(), facts]))
"""
ODD = "$(touch stolen); `touch stolen` && \x1b[31m'\"\0 \udc80 \u00e9"


def python(code: str, *args: str, timeout_seconds: float = 60.0) -> AlertCommand:
    return AlertCommand([sys.executable, "-c", code, *args], timeout_seconds=timeout_seconds)


@pytest.mark.slow
def test_odd_text_of_a_run_reaches_the_command_as_data_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = python(WRITE, "seen.json", "$HOME")
    assert command.run(b"{}\n", {"ESPER_ALERT_TEXT": ODD}) == ""
    text = Path("seen.json").read_text(encoding="utf-8")
    assert ("$HOME" in text, "$(touch stolen)" in text) == (True, True)
    assert not any(odd in text for odd in ("\\u001b", "\\u0000", "\\udc80"))
    assert [path.name for path in tmp_path.iterdir()] == ["seen.json"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["false"], "exit code 1"),
        (["sh", "-c", "kill -9 $$"], "ended by signal 9"),
        (["/no/such/program"], "cannot be started"),
        (["true"], ""),
        (["sh", "-c", "exec <&-; exit 0"], ""),
    ],
)
def test_how_it_ended_is_told(words: list[str], problem: str) -> None:
    error = AlertCommand(words, timeout_seconds=60.0).run(b"x" * 200_000, {})
    assert error.startswith(problem)
    assert bool(error) is bool(problem)


@pytest.mark.fault
def test_a_command_that_hangs_is_ended_with_all_that_it_started() -> None:
    command = AlertCommand(["sh", "-c", "sleep 600 & wait"], timeout_seconds=0.05)
    assert command.run(b"", {}) == "took longer than 0.05 s and was ended"


@pytest.mark.fault
def test_stopping_ends_what_runs_and_starts_nothing_more() -> None:
    command = AlertCommand(["sleep", "600"], timeout_seconds=600.0)
    errors: list[str] = []
    runner = threading.Thread(target=lambda: errors.append(command.run(b"", {})))
    runner.start()
    while command._process is None and runner.is_alive():
        pass  # it starts at once
    command.stop()
    runner.join()
    assert errors == ["ended by signal 9"]
    assert "before it could start" in command.run(b"", {})


def test_words_are_split_as_in_a_shell_and_nothing_is_replaced() -> None:
    assert split_command("notify --to 'a b' $USER") == ("notify", "--to", "a b", "$USER")
    assert split_command("") == ()
    with pytest.raises(ConfigError, match="No closing quotation"):
        split_command("notify 'a")


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    check_command("")
    check_command("true --quietly")
    plain = tmp_path / "plain"
    plain.touch(mode=0o600)
    for text in ("no-such-program-here", str(plain)):
        with pytest.raises(ConfigError, match="there is no program"):
            check_command(text)
