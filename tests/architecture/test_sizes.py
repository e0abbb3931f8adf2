"""Files and functions stay small enough to be read in one go; there is no list of exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

from source_tree import SRC, FunctionNode, functions, plant, read_sources

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Contracts stay small because a type enters them only by the admission test in `leyline/__init__.py`. The
# limit leaves room for what is known to come (records of the learned policy, of fleets and of ranks) over the
# 1,660 lines that the first capability needed; past it, a type is probably in the wrong room.
MAX_CONTRACT_LINES = 2_400


def body_lines(node: FunctionNode) -> int:
    """Lines of a function without its decorators and docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and ast.get_docstring(node, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def find_oversized(root: Path) -> list[str]:
    """Name files, functions and the contract room where they exceed their limit."""
    found = []
    files = read_sources(root)
    for file in files:
        if file.num_lines > MAX_FILE_LINES:
            found.append(f"{file.name}: {file.num_lines} lines, at most {MAX_FILE_LINES}")
        found += [
            f"{file.name}:{node.lineno} {node.name}: {body_lines(node)} lines, at most {MAX_FUNCTION_LINES}"
            for node in functions(file.tree)
            if body_lines(node) > MAX_FUNCTION_LINES
        ]
    contracts = sum(file.num_lines for file in files if file.room == "leyline")
    if contracts > MAX_CONTRACT_LINES:
        found.append(f"leyline: {contracts} lines in all, at most {MAX_CONTRACT_LINES}")
    return found


def test_files_functions_and_contracts_stay_within_their_limits() -> None:
    assert find_oversized(SRC) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"data/big.py": "x = 1\n" * 401, "data/full.py": "x = 1\n" * 400})
    assert find_oversized(tmp_path) == ["data/big.py: 401 lines, at most 400"]


def test_a_long_function_is_found_and_its_docstring_is_free(tmp_path: Path) -> None:
    long_text = "def f() -> None:\n" + "    x = 1\n" * 60
    documented = 'def g() -> None:\n    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 59
    plant(tmp_path, {"data/a.py": long_text, "data/b.py": documented})
    assert find_oversized(tmp_path) == ["data/a.py:1 f: 61 lines, at most 60"]


def test_a_contract_room_over_its_sum_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {f"leyline/part{i}.py": "x = 1\n" * 380 for i in range(7)})
    assert find_oversized(tmp_path) == [f"leyline: 2660 lines in all, at most {MAX_CONTRACT_LINES}"]
