"""python scripts/mutation_table.py: what mutmut's last run killed, file by file; fails below the floor.

Reads the folder `mutants/` that `mutmut run` leaves behind. A mutant that no test ran, that timed out or that
was not checked counts as one that survived.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from source_tree import REPO

FOLDER = "mutants"
FLOOR = 0.85
KILLED = frozenset({1, 3})
"""Exit codes of pytest in which a mutant is dead: a test failed, or the mutant broke the collection."""


def read_outcomes(folder: Path) -> dict[str, dict[str, bool]]:
    """Return, for each mutated file, its mutants by name and whether each was killed.

    Raises:
        ValueError: If the folder holds no mutants.
    """
    outcomes = {}
    for path in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            name = path.relative_to(folder).as_posix().removesuffix(".meta")
            outcomes[name] = {mutant: code in KILLED for mutant, code in codes.items()}
    if not outcomes:
        raise ValueError(f"{folder} holds no mutants: run `make mutation`")
    return outcomes


def build_table(outcomes: dict[str, dict[str, bool]]) -> str:
    """Return the counts as a markdown table, the surviving mutants listed under it."""
    lines = ["| file | mutants | killed | survived | killed |", "|---|---:|---:|---:|---:|"]
    for name, mutants in outcomes.items():
        total, killed = len(mutants), sum(mutants.values())
        lines.append(f"| `{name}` | {total} | {killed} | {total - killed} | {killed / total:.1%} |")
    lines += [
        f"survived: {mutant}"
        for mutants in outcomes.values()
        for mutant, is_killed in mutants.items()
        if not is_killed
    ]
    return "\n".join(lines)


def is_enough(outcomes: dict[str, dict[str, bool]]) -> bool:
    """Return whether every file's share of killed mutants reaches the floor."""
    return all(sum(mutants.values()) >= FLOOR * len(mutants) for mutants in outcomes.values())


def main() -> int:
    """Print the table; return 1 if a file is below the floor."""
    outcomes = read_outcomes(REPO / FOLDER)
    print(build_table(outcomes))
    if is_enough(outcomes):
        return 0
    print(f"a file is below the floor of {FLOOR:.0%}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
