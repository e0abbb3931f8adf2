from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.calling import call
from esper.cli import data
from esper.data import DATASET_NAMES, Finding


@pytest.fixture(autouse=True)
def no_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what comes with the package is there."""
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_set_is_listed_with_state_licence_and_credit() -> None:
    sets = {item["name"]: item for item in json.loads(call(["data", "list", "--json"]).out)}
    assert set(sets) == set(DATASET_NAMES)
    assert sets["digits"]["state"] == "embedded"
    assert (sets["text"]["state"], sets["text"]["path"]) == ("given", None)
    assert (sets["emoji9"]["state"], sets["emoji9"]["path"]) == ("missing", None)
    assert all(item["licence"] and item["credit"] for item in sets.values())
    answer = call(["data", "list"])
    assert "Data sets\nname " in answer.out
    assert "\nCredits\nname " in answer.out
    assert answer.err.startswith("missing: `esper data check austen` says where")


def test_the_sets_that_are_there_are_checked() -> None:
    answer = call(["data", "check", "--json"])
    assert answer.code == 0
    assert {item["name"] for item in json.loads(answer.out)} == {"digits"}
    assert call(["data", "check", "digits"]).code == 0


def test_a_generated_set_has_nothing_to_check() -> None:
    answer = call(["data", "check", "synthetic"])
    assert (answer.code, answer.out) == (0, "Files\nnone; generated sets have no files\n")


def test_a_damaged_file_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, data_dir: Path | None) -> tuple[Finding, ...]:
        return (
            Finding(file="a", is_ok=True, message="checksum matches"),
            Finding(file="b", is_ok=False, message="10 bytes; expected 20"),
        )

    monkeypatch.setattr(data, "check", check)
    answer = call(["data", "check", "digits"])
    assert answer.code == 3
    assert "DAMAGED  b     10 bytes; expected 20" in answer.out
    assert answer.err == "1 of 2 files are missing or damaged\n"


def test_a_missing_set_says_where_it_was_looked_for_line_by_line() -> None:
    answer = call(["data", "check", "emoji9"])
    assert (answer.code, answer.out) == (3, "")
    assert answer.error_lines[0].startswith("esper: error: data set 'emoji9' was not found. Looked in:")
    assert all(line.startswith("  ") for line in answer.error_lines[1:])
    assert "To get it: " in answer.error_lines[-1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "give one of list, check"),
        (["chek"], 2, "did you mean 'check'?"),
        (["check", "digit"], 2, "unknown data set 'digit': did you mean 'digits'?"),
        (["list", "--data-dir", "/no/such"], 3, "data folder /no/such does not exist"),
        (["list", "digits"], 2, "unknown argument 'digits'"),
    ],
)
def test_what_goes_wrong_is_one_line(args: list[str], code: int, message: str) -> None:
    answer = call(["data", *args])
    assert (answer.code, answer.out, len(answer.error_lines)) == (code, "", 1)
    assert message in answer.err
