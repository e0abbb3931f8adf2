"""A pytest plugin: what each test of the fault battery showed, as one JSON line per test and claim.

`@pytest.mark.battery("T07")` names the claim; the fixture `battery` takes numbers. Lines go to the file that
ESPER_BATTERY_ROWS names, in one write each, so that several workers share it; without it nothing is written.
A test that records nothing counts as one case.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Generator
from importlib.metadata import version

import pytest

from battery_claims import CLAIMS

ROWS_NAME = "ESPER_BATTERY_ROWS"
Reports = dict[str, pytest.TestReport]
REPORTS_KEY: pytest.StashKey[Reports] = pytest.StashKey()


class BatteryRecord:
    """What one test has counted so far."""

    def __init__(self) -> None:
        self.num_cases: int | None = None
        self.num_failures = 0
        self.worst_s: float | None = None
        self.notes: list[str] = []

    def record(self, n: int = 1, failures: int = 0, worst_s: float | None = None, note: str = "") -> None:
        """Add cases; may be called often, also before an assertion that will fail.

        Args:
            n: Cases tried, >= 1.
            failures: How many of them broke the claim, in [0, n].
            worst_s: Longest time of one of them, seconds.
            note: What a reader should know, one short line.
        """
        if n < 1 or not 0 <= failures <= n:
            raise ValueError(f"{n=}, {failures=}: expected n >= 1 and failures in [0, n]")
        self.num_cases = (self.num_cases or 0) + n
        self.num_failures += failures
        if worst_s is not None:
            self.worst_s = worst_s if self.worst_s is None else max(self.worst_s, worst_s)
        if note and note not in self.notes:
            self.notes.append(note)


RECORD_KEY: pytest.StashKey[BatteryRecord] = pytest.StashKey()


@pytest.fixture
def battery(request: pytest.FixtureRequest) -> BatteryRecord:
    """Where a test of the battery records how often it tried and how often the claim broke."""
    item: pytest.Item = request.node
    if not claims_of(item):
        raise pytest.UsageError(f"{item.nodeid} records for the battery without a claim's marker")
    return item.stash.setdefault(RECORD_KEY, BatteryRecord())


def claims_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the claims that a test names.

    Raises:
        pytest.UsageError: If a claim does not exist.
    """
    claims = tuple(str(name) for marker in item.iter_markers("battery") for name in marker.args)
    for claim in claims:
        if claim not in CLAIMS:
            raise pytest.UsageError(f"{item.nodeid}: unknown claim {claim!r}; known: T01 to T{len(CLAIMS)}")
    return tuple(dict.fromkeys(claims))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a misspelt claim before anything runs."""
    claims_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the reports of all phases; after the last one write the rows."""
    report = yield
    reports = item.stash.setdefault(REPORTS_KEY, {})
    reports[report.when] = report
    path = os.environ.get(ROWS_NAME)
    if path and report.when == "teardown":
        lines = [json.dumps(row, sort_keys=True) + "\n" for row in build_rows(item, reports)]
        append("".join(lines).encode(), path)
    return report


def append(data: bytes, path: str) -> None:
    """Write at the end of a file that others write to as well."""
    if not data:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def build_rows(item: pytest.Item, reports: Reports) -> list[dict[str, object]]:
    """Return one row for each claim of a test whose last phase is over."""
    record = item.stash.get(RECORD_KEY, None) or BatteryRecord()
    outcome = _outcome(reports)
    num_cases = (record.num_cases or 1) if outcome != "skipped" else 0
    num_failures = max(record.num_failures, int(outcome == "failed"))
    took_s = reports["call"].duration if "call" in reports else None
    worst_s = record.worst_s if record.num_cases is not None else took_s
    return [
        {
            "id": claim,
            "test": item.nodeid,
            "n": num_cases,
            "failures": num_failures,
            "worst_s": None if worst_s is None or outcome == "skipped" else round(worst_s, 3),
            "tier": _tier(item),
            "outcome": outcome,
            "note": "; ".join(record.notes) or _reason(reports),
            "machine": describe_machine(),
        }
        for claim in claims_of(item)
    ]


def describe_machine() -> str:
    """Return what the numbers depend on."""
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, torch {version('torch')}"


def _outcome(reports: Reports) -> str:
    outcomes = [report.outcome for report in reports.values()]
    return next((name for name in ("failed", "skipped") if name in outcomes), "passed")


def _tier(item: pytest.Item) -> str:
    if item.get_closest_marker("soak") is not None:
        return "N"
    return "G" if item.get_closest_marker("gpu") is not None else "P"


def _reason(reports: Reports) -> str:
    """Why a test was skipped; empty if it was not."""
    skipped = [report.longrepr for report in reports.values() if report.outcome == "skipped"]
    return str(skipped[0][2]).removeprefix("Skipped: ") if skipped and isinstance(skipped[0], tuple) else ""
