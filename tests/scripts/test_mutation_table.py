"""The table of planted faults: counts per file, the survivors by name, and a floor for each file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutation_table import build_table, is_enough, read_outcomes


def _plant(folder: Path, name: str, codes: dict[str, int | None]) -> None:
    path = folder / f"{name}.meta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"exit_code_by_key": codes}), encoding="utf-8")


def test_a_mutant_is_killed_only_by_a_failing_test(tmp_path: Path) -> None:
    _plant(
        tmp_path, "src/a.py", {"failed": 1, "broken": 3, "passed": 0, "untested": 33, "late": 36, "new": None}
    )
    _plant(tmp_path, "src/b.py", {"failed": 1})
    _plant(tmp_path, "src/never_mutated.py", {})
    assert build_table(read_outcomes(tmp_path)).splitlines() == [
        "| file | mutants | killed | survived | killed |",
        "|---|---:|---:|---:|---:|",
        "| `src/a.py` | 6 | 2 | 4 | 33.3% |",
        "| `src/b.py` | 1 | 1 | 0 | 100.0% |",
        "survived: passed",
        "survived: untested",
        "survived: late",
        "survived: new",
    ]


def test_one_file_below_the_floor_fails_the_run() -> None:
    good = {str(number): number > 15 for number in range(1, 101)}
    bad = {str(number): number > 16 for number in range(1, 101)}
    assert is_enough({"a.py": good})
    assert not is_enough({"a.py": good, "b.py": bad})


def test_a_folder_without_mutants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make mutation`"):
        read_outcomes(tmp_path)
