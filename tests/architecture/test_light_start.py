"""The doors answer without importing torch: help, version and a look at old runs are instant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import SRC, plant

HEAVY = ("torch", "matplotlib", "sklearn", "scipy")
CALL = """
import json, sys
sys.argv = ["esper", *{args!r}]
from esper.cli.main import main
try:
    main()
    code = 0
except SystemExit as stop:
    code = stop.code or 0
sys.stdout.flush()
print("\\n" + json.dumps([code, [name for name in {heavy!r} if name in sys.modules]]))
"""
IMPORT = """
import importlib, json, sys
importlib.import_module({module!r})
print("\\n" + json.dumps([0, [name for name in {heavy!r} if name in sys.modules]]))
"""


def _run(program: str, source: Path, folder: Path) -> tuple[int, list[str]]:
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    code, modules = json.loads(answer.stdout.splitlines()[-1])
    return int(code), [str(name) for name in modules]


def heavy_modules_of_command(args: list[str], source: Path, folder: Path) -> tuple[int, list[str]]:
    """Run `esper ARGS` in a fresh process; return its exit code and the heavy modules that it loaded."""
    return _run(CALL.format(args=args, heavy=HEAVY), source, folder)


def heavy_modules_of_import(module: str, source: Path, folder: Path) -> list[str]:
    """Import a module in a fresh process and return the heavy modules that came with it."""
    return _run(IMPORT.format(module=module, heavy=HEAVY), source, folder)[1]


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--version"], ["runs", "ls"], ["watch", "--help"], ["runs", "compare", "--help"]],
    ids=" ".join,
)
def test_a_light_command_imports_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    code, modules = heavy_modules_of_command(args, SRC, tmp_path)
    assert code == 0
    assert modules == []


@pytest.mark.parametrize(
    "module", ["esper", "esper.leyline", "esper.nissa", "esper.cli", "esper.runtime.ranks"]
)
def test_a_light_front_door_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert heavy_modules_of_import(module, SRC, tmp_path) == []


def test_a_heavy_command_is_found(tmp_path: Path) -> None:
    source = plant(
        tmp_path,
        {
            "__init__.py": "",
            "cli/__init__.py": "",
            "cli/main.py": "import torch\ndef main(): raise SystemExit(3)\n",
        },
    )
    (tmp_path / "torch.py").write_text("", encoding="utf-8")
    assert heavy_modules_of_command(["--help"], source, tmp_path) == (3, ["torch"])
    assert heavy_modules_of_import("esper.cli.main", source, tmp_path) == ["torch"]
    assert heavy_modules_of_import("esper.cli", source, tmp_path) == []
