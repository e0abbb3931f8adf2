"""The tables of docs/results.md, recomputed from the committed rows.

    python scripts/recompute_tables.py            write them
    python scripts/recompute_tables.py --check    exit 1 if the page differs

The page holds pairs of marker lines, `<!-- table:NAME -->` and `<!-- /table -->`; between them goes what
`study_tables` makes of benchmarks/results/NAME.jsonl. Every rows file must have its place on the page.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from study_rows import read_rows
from study_tables import build_table

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- table:(\w+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def rewrite(page: str, results: Path) -> str:
    """Return the page with every marked table recomputed.

    Raises:
        ValueError: If a rows file has no place on the page, or rows are refused.
    """
    names = [match[1] for match in MARKED.findall(page)]
    homeless = sorted({path.stem for path in results.glob("*.jsonl")} - set(names))
    if homeless:
        raise ValueError(f"{results}: no marker on the page for {', '.join(homeless)}")

    def fill(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.jsonl"
        table = build_table(match[2], read_rows(path) if path.exists() else [])
        # Blank lines, because Markdown takes a line right below a comment for a part of it.
        return f"{match[1]}\n{table}\n{match[4]}"

    return MARKED.sub(fill, page)


def main() -> int:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description="Recompute the tables of the results page.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    present = arguments.page.read_text(encoding="utf-8")
    wanted = rewrite(present, arguments.results)
    if present == wanted:
        return 0
    if arguments.check:
        print(f"{arguments.page} differs from its rows: run scripts/recompute_tables.py", file=sys.stderr)
        return 1
    arguments.page.write_text(wanted, encoding="utf-8")
    print(f"wrote {arguments.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
