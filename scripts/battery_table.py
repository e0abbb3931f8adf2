"""python scripts/battery_table.py [ROWS] [--keep] [--check]: the fault battery as a table.

Without arguments it writes docs/battery.md from the kept rows, docs/battery.jsonl; --check only compares.
With ROWS, the file that `make battery` or `make soak` wrote, it prints the table of that run, fails if a
claim broke, and with --keep puts its rows in the place of the kept ones of the same claim and tier.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from battery_claims import CLAIMS
from generated import replace_between, settle
from source_tree import REPO

PAGE = REPO / "docs" / "battery.md"
KEPT = REPO / "docs" / "battery.jsonl"
BEGIN = "<!-- battery: begin (make generate) -->"
END = "<!-- battery: end -->"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one test showed for one claim, as the plugin wrote it."""

    id: str
    test: str
    n: int
    failures: int
    worst_s: float | None
    tier: str
    outcome: str
    note: str
    machine: str


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; of repeated runs of one test the last.

    Raises:
        ValueError: If a line is no row, or names no claim.
    """
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = Row(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: not a row of the battery: {error}") from error
        if row.id not in CLAIMS:
            raise ValueError(f"{path}, line {number}: unknown claim {row.id!r}")
        rows[row.id, row.test] = row
    return sorted(rows.values(), key=lambda row: (row.id, row.test))


def render_rows(rows: Iterable[Row]) -> str:
    """Return rows as text, sorted, one per line."""
    ordered = sorted(rows, key=lambda row: (row.id, row.test))
    return "".join(json.dumps(asdict(row), sort_keys=True) + "\n" for row in ordered)


def merge(kept: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return the kept rows, those of a claim and tier that the new ones speak of replaced."""
    spoken = {(row.id, row.tier) for row in new}
    return [row for row in kept if (row.id, row.tier) not in spoken] + list(new)


def build_table(rows: Sequence[Row]) -> str:
    """Return one line per claim: what it says, and what its tests came to."""
    lines = [
        "| id | claim | tests | N | failures | worst time | result |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for claim in CLAIMS.values():
        own = [row for row in rows if row.id == claim.id]
        tried = [row for row in own if row.outcome != "skipped"]
        cells = [claim.id, claim.text, "<br>".join(_names(own)) or "-"]
        cells += [*_numbers(tried), _result(own, claim.gap)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def build_page(page: str, rows: Sequence[Row]) -> str:
    """Return the page with its table made anew."""
    machines = sorted({row.machine for row in rows})
    where = "Rows of: " + "; ".join(machines) + "." if machines else "No rows yet."
    return replace_between(page, BEGIN, END, f"\n{build_table(rows)}\n\n{where}\n")


def is_whole(rows: Sequence[Row]) -> bool:
    """Whether no claim broke."""
    return all(row.outcome != "failed" and row.failures == 0 for row in rows)


def _names(rows: Sequence[Row]) -> list[str]:
    """Tests by name; the cases of one test are one."""
    return [f"`{name}`" for name in dict.fromkeys(row.test.split("[")[0] for row in rows)]


def _numbers(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["-", "-", "-"]
    times = [row.worst_s for row in rows if row.worst_s is not None]
    worst = f"{max(times):.2f} s" if times else "-"
    return [str(sum(row.n for row in rows)), str(sum(row.failures for row in rows)), worst]


def _result(rows: Sequence[Row], gap: str) -> str:
    if not rows:
        return f"not tested here: {gap}" if gap else "not run"
    if not is_whole(rows):
        return "**failed**"
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    if all(row.outcome == "skipped" for row in rows):
        return "not tested here: " + "; ".join(notes)
    return "; ".join(["passed", *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="?")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(argv)
    if given.rows is not None:
        new = read_rows(given.rows)
        print(build_table(new))
        if given.keep:
            KEPT.write_text(render_rows(merge(_kept(), new)), encoding="utf-8")
            _settle_page(is_check=False)
        if not is_whole(new):
            print("a claim of the battery broke", file=sys.stderr)
            return 1
        return 0
    return _settle_page(is_check=given.check)


def _settle_page(*, is_check: bool) -> int:
    return settle(PAGE, build_page(PAGE.read_text(encoding="utf-8"), _kept()), is_check=is_check)


def _kept() -> list[Row]:
    return read_rows(KEPT) if KEPT.exists() else []


if __name__ == "__main__":
    raise SystemExit(main())
