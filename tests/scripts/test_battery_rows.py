"""The recorder of the fault battery: one row per test and claim, from one process or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from battery_rows import BatteryRecord
from source_tree import REPO

PROGRAM = """
import pytest

@pytest.mark.battery("T07")
def test_counts(battery):
    battery.record(n=150, worst_s=0.5)
    battery.record(n=50, worst_s=2.0, note="a note")

@pytest.mark.battery("T08", "T09")
@pytest.mark.parametrize("case", [1, 2])
def test_counts_nothing(case):
    pass

@pytest.mark.battery("T10")
def test_breaks(battery):
    battery.record(n=10, failures=3)
    assert False

@pytest.mark.battery("T11")
def test_breaks_before_it_counts():
    assert False

@pytest.fixture
def broken():
    yield
    raise OSError("cannot be put back")

@pytest.mark.battery("T12")
def test_breaks_afterwards(broken):
    pass

@pytest.mark.battery("T28")
@pytest.mark.gpu
@pytest.mark.skip(reason="needs a GPU")
def test_cannot_be_run():
    pass

@pytest.mark.battery("T39")
@pytest.mark.soak
def test_lasts():
    pass

def test_of_something_else():
    pass
"""


def run(folder: Path, program: str, *arguments: str) -> tuple[str, list[dict[str, object]]]:
    """Run a file of tests with the recorder alone; return what it printed and the rows."""
    (folder / "test_it.py").write_text(program, encoding="utf-8")
    rows = folder / "rows.jsonl"
    options = ["-q", "-p", "battery_rows", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments]
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(folder), str(folder)],
        env=os.environ
        | {
            "ESPER_BATTERY_ROWS": str(rows),
            "PYTHONPATH": f"{REPO / 'tests'}{os.pathsep}{REPO / 'scripts'}",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return answer.stdout + answer.stderr, [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one", "two"])
def test_every_marked_test_leaves_a_row_for_each_of_its_claims(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    _, rows = run(tmp_path, PROGRAM, *arguments)
    found = sorted(
        (str(row["id"]), str(row["test"]).split("::")[1], row["n"], row["failures"], row["outcome"])
        for row in rows
    )
    assert found == [
        ("T07", "test_counts", 200, 0, "passed"),
        ("T08", "test_counts_nothing[1]", 1, 0, "passed"),
        ("T08", "test_counts_nothing[2]", 1, 0, "passed"),
        ("T09", "test_counts_nothing[1]", 1, 0, "passed"),
        ("T09", "test_counts_nothing[2]", 1, 0, "passed"),
        ("T10", "test_breaks", 10, 3, "failed"),
        ("T11", "test_breaks_before_it_counts", 1, 1, "failed"),
        ("T12", "test_breaks_afterwards", 1, 1, "failed"),
        ("T28", "test_cannot_be_run", 0, 0, "skipped"),
        ("T39", "test_lasts", 1, 0, "passed"),
    ]
    by_id = {str(row["id"]): row for row in rows}
    assert (by_id["T07"]["worst_s"], by_id["T07"]["note"], by_id["T07"]["tier"]) == (2.0, "a note", "P")
    assert (by_id["T28"]["note"], by_id["T28"]["tier"]) == ("needs a GPU", "G")
    assert by_id["T39"]["tier"] == "N"
    assert by_id["T08"]["worst_s"] is not None, "what records nothing is timed as a whole"


@pytest.mark.slow
def test_a_misspelt_claim_and_a_record_without_one_are_refused(tmp_path: Path) -> None:
    said, rows = run(tmp_path, 'import pytest\n@pytest.mark.battery("T7")\ndef test_a():\n    pass\n')
    assert "unknown claim 'T7'" in said
    said, more = run(tmp_path, "def test_a(battery):\n    battery.record()\n")
    assert "without a claim's marker" in said
    assert rows == more == []


@pytest.mark.parametrize(("n", "failures"), [(0, 0), (-1, 0), (3, 4), (3, -1)])
def test_counts_that_cannot_be_are_refused(n: int, failures: int) -> None:
    with pytest.raises(ValueError, match="expected n >= 1"):
        BatteryRecord().record(n=n, failures=failures)
