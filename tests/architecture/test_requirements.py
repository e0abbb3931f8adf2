"""docs/requirements.md names a test for every requirement that is done; every test named on a page exists."""

from __future__ import annotations

import re
from pathlib import Path

from source_tree import REPO, functions, read_file

ROW = re.compile(
    r"^\| (?P<number>R\d+) \| (?P<text>.+) \| (?P<status>\S+) \| (?P<tests>.+) \|$", re.MULTILINE
)
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def find_requirement_faults(page: str, repo: Path) -> list[str]:
    """Name rows without a valid status, done rows without a test, and tests that do not exist.

    Args:
        page: Text of the page.
        repo: Root that the test ids start from.
    """
    found = []
    rows = list(ROW.finditer(page))
    if [row["number"] for row in rows] != [f"R{number}" for number in range(1, len(rows) + 1)]:
        found.append("rows are not numbered R1, R2, ... without a gap")
    if len(rows) != page.count("\n| R"):
        found.append("a row does not have the form | R1 | text | status | tests |")
    for row in rows:
        tests = TEST_ID.findall(row["tests"])
        if row["status"] not in ("done", "open"):
            found.append(f"{row['number']}: status {row['status']!r} is neither done nor open")
        if row["status"] == "done" and not tests:
            found.append(f"{row['number']}: done, but no test shows it")
        if row["status"] == "open" and not tests and row["tests"] != "open":
            found.append(f"{row['number']}: write a test id or the word open, got {row['tests']!r}")
        found += [
            f"{row['number']}: {file}::{name} does not exist"
            for file, name in tests
            if not _exists(repo, file, name)
        ]
    return found


def _exists(repo: Path, file: str, name: str) -> bool:
    path = repo / file
    return path.exists() and any(node.name == name for node in functions(read_file(path, repo).tree))


def test_every_requirement_is_shown_by_tests_that_exist() -> None:
    page = (REPO / "docs" / "requirements.md").read_text(encoding="utf-8")
    assert ROW.search(page)
    assert find_requirement_faults(page, REPO) == []


def find_missing_tests(page: str, repo: Path) -> list[str]:
    """Name the test ids on a page that lead nowhere."""
    return [f"{file}::{name}" for file, name in TEST_ID.findall(page) if not _exists(repo, file, name)]


def test_every_test_that_the_reliability_page_names_exists() -> None:
    page = (REPO / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert len(TEST_ID.findall(page)) > 20
    assert find_missing_tests(page, REPO) == []


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (REPO / "SECURITY.md").read_text(encoding="utf-8")
    assert len(TEST_ID.findall(page)) > 20
    assert find_missing_tests(page, REPO) == []


def test_a_test_id_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    assert find_missing_tests("| fault | `tests/test_a.py::test_gone` |", tmp_path) == [
        "tests/test_a.py::test_gone"
    ]


def test_requirement_faults_are_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("def test_there(): ...\n", encoding="utf-8")
    page = (
        "\n| R1 | fine | done | `tests/test_a.py::test_there` |"
        "\n| R2 | no test | done | open |"
        "\n| R3 | gone | open | `tests/test_a.py::test_gone`, `tests/test_b.py::test_there` |"
        "\n| R4 | word | maybe | open |"
        "\n| R6 | blank | open | soon |"
        "\n| R7 | torn\n"
    )
    assert find_requirement_faults(page, tmp_path) == [
        "rows are not numbered R1, R2, ... without a gap",
        "a row does not have the form | R1 | text | status | tests |",
        "R2: done, but no test shows it",
        "R3: tests/test_a.py::test_gone does not exist",
        "R3: tests/test_b.py::test_there does not exist",
        "R4: status 'maybe' is neither done nor open",
        "R6: write a test id or the word open, got 'soon'",
    ]
