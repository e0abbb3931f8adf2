"""The programs of `examples/` run as they are, grow, keep what has proved itself, and export."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import REPO, SRC

FOLDER = REPO / "examples"
SHARED = frozenset({"digits.py", "torchvision_operators.py"})
"""What examples import; no programs."""
PROGRAMS = tuple(sorted(path for path in FOLDER.glob("*.py") if path.name not in SHARED))
MAX_LINES = 60
RUNNER = Path(__file__).with_name("run_example.py")


def find_faults(name: str, text: str) -> list[str]:
    """Name what is wrong with an example: too long, undescribed, or using more than the public front."""
    tree = ast.parse(text)
    found = []
    if "Run: python examples/" + name not in (ast.get_docstring(tree) or ""):
        found.append("does not say how it is run")
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", '"""'))]
    if len(code) > MAX_LINES:
        found.append(f"has {len(code)} lines of code")
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += (
            [alias.name for alias in node.names if "." in alias.name] if isinstance(node, ast.Import) else []
        )
        found += [f"imports {module}" for module in modules if module.split(".")[0] == "esper"]
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_the_public_front_alone(path: Path) -> None:
    assert find_faults(path.name, path.read_text(encoding="utf-8")) == []


def test_faults_of_examples_are_found() -> None:
    text = "from esper.kasmina import Slot\nimport esper\nimport esper.runtime.api\n" + "x = 1\n" * 80
    assert find_faults("a.py", text) == [
        "does not say how it is run",
        "has 83 lines of code",
        "imports esper.kasmina",
        "imports esper.runtime.api",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_grows_keeps_a_seed_and_exports(path: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(RUNNER), str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    told = answer.stdout + answer.stderr
    assert answer.returncode == 0, told
    assert re.search(r"seed \S+ \(\w+\) GERMINATED: \+", told), told
    assert re.search(r"seed \S+ \(\w+\) FOSSILIZED: ", told), told
    assert re.search(r"exported, equal to \d", answer.stdout), told
    assert list(tmp_path.iterdir()) == []
