"""The tables of docs/performance.md that are recomputed from rows.

    python scripts/performance_tables.py                    write them
    python scripts/performance_tables.py --check            exit 1 if the page differs
    python scripts/performance_tables.py --keep OUT.json    first take what benchmarks/host_run.py wrote into
                                                            benchmarks/host_run.jsonl, task by task

Between the page's marker lines, `<!-- table:NAME -->` and `<!-- /table -->`, goes what the builder of that
name makes of rows that lie beside their program as benchmarks/*.jsonl.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dashboard_tables import build_attached
from fleet_tables import build_fleets
from generated import settle
from performance_rows import Row, read_plain_rows
from precision_tables import build_attention, build_floors, build_metrics, build_rates, build_times
from process_fleet_tables import build_process_targets, build_process_times
from recompute_tables import MARKED
from share_tables import build_amdahl, build_shares
from source_tree import REPO
from speed_tables import build_epochs, build_measuring, build_ratios
from telemetry_tables import build_profiles

PAGE = REPO / "docs" / "performance.md"
ROWS = REPO / "benchmarks"
_KEPT_COLUMNS = ("cpu", "train_cpu", "flops", "num_live")
Builder = Callable[..., str]

TABLES: Mapping[str, tuple[Builder, tuple[str, ...]]] = MappingProxyType(
    {
        "rates": (build_rates, ("roofline",)),
        "floors": (build_floors, ("precision", "roofline")),
        "precision_time": (build_times, ("precision",)),
        "precision_metric": (build_metrics, ("precision",)),
        "attention_precision": (build_attention, ("attention_precision",)),
        "host_run_ratios": (build_ratios, ("host_run",)),
        "host_run_epochs": (build_epochs, ("host_run",)),
        "host_run_measuring": (build_measuring, ("host_run",)),
        "fleets": (build_fleets, ("fleets",)),
        "process_fleet_targets": (build_process_targets, ("process_fleet",)),
        "process_fleet_times": (build_process_times, ("process_fleet",)),
        "training_shares": (build_shares, ("training_shares",)),
        "training_amdahl": (build_amdahl, ("training_shares",)),
        "telemetry_profiles": (build_profiles, ("telemetry",)),
        "dashboard_attached": (build_attached, ("dashboard_attached",)),
    }
)
"""Name -> what builds it, and the rows files that it is handed, without their ending."""


def rewrite(page: str, folder: Path) -> str:
    """Return the page with every marked table recomputed.

    Raises:
        ValueError: If a table of ours has no place on the page, or a place no table.
    """
    names = [match[1] for match in MARKED.findall(page)]
    if sorted(names) != sorted(TABLES):
        raise ValueError(f"the page has places for {sorted(names)}, the tables are {sorted(TABLES)}")

    def fill(match: re.Match[str]) -> str:
        build, files = TABLES[match[2]]
        table = build(*(read_plain_rows(folder / f"{name}.jsonl") for name in files))
        # Blank lines, because Markdown takes a line right below a comment for a part of it.
        return f"{match[1]}\n{table}\n{match[4]}"

    return MARKED.sub(fill, page)


def keep_host_run(document: Mapping[str, object], kept: Sequence[Row]) -> list[Row]:
    """Return the rows of a document of benchmarks/host_run.py, one per task, in the place of kept ones.

    Args:
        document: What the program wrote.
        kept: Rows so far; those of other tasks stay.
    """
    tasks = document["tasks"]
    assert isinstance(tasks, list)
    rows: list[Row] = []
    for task in tasks:
        columns = {
            way: {name: [epoch[name] for epoch in epochs] for name in _KEPT_COLUMNS}
            for way, epochs in task["columns"].items()
        }
        facts = {name: task[name] for name in ("task", "rows", "batches_per_epoch", "num_slots", "flops")}
        rows.append({**facts, "torch": document["torch"], "columns": columns})
    fresh = {row["task"] for row in rows}
    return [row for row in kept if row["task"] not in fresh] + rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description="Recompute tables of the page on performance.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("--keep", type=Path, metavar="OUT.json", help="document of benchmarks/host_run.py")
    given = parser.parse_args(argv)
    if given.keep is not None:
        path = ROWS / "host_run.jsonl"
        document = json.loads(given.keep.read_text(encoding="utf-8"))
        rows = keep_host_run(document, read_plain_rows(path) if path.exists() else [])
        path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")
    return settle(PAGE, rewrite(PAGE.read_text(encoding="utf-8"), ROWS), is_check=given.check)


if __name__ == "__main__":
    sys.exit(main())
