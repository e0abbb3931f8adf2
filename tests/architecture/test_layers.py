"""Every import contract of pyproject.toml holds, and each is shown to break on a planted violation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from source_tree import REPO, SRC, imported_modules, plant, read_sources

LAYERS = "Rooms import downwards only; siblings do not know each other"
TELEMETRY = "Only the wiring and the doors know telemetry"
HANDS = "Host training is handed actions"
CONTRACTS = "Contracts use the standard library"
CYCLES = "No cycles between siblings, at any depth"


def run_contracts(folder: Path, source: Path) -> tuple[int, str]:
    """Run import-linter with the pyproject.toml of `folder` over the package under `source`."""
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the source and its settings in which a violation can be planted."""
    shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_contract_is_kept() -> None:
    code, text = run_contracts(REPO, SRC)
    assert code == 0, text
    for contract in (LAYERS, TELEMETRY, HANDS, CONTRACTS, CYCLES):
        assert f"{contract} KEPT" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "files"),
    [
        (LAYERS, {"leyline/planted.py": "import esper.kasmina"}),
        (LAYERS, {"tamiyo/planted.py": "import esper.kasmina"}),
        (LAYERS, {"newroom/__init__.py": ""}),
        (TELEMETRY, {"tolaria/planted.py": "import esper.nissa"}),
        (HANDS, {"tolaria/planted.py": "import esper.tamiyo"}),
        (CONTRACTS, {"leyline/planted.py": "import torch"}),
        (CONTRACTS, {"leyline/planted.py": "from numpy import ndarray"}),
        (
            CYCLES,
            {"leyline/one.py": "import esper.leyline.two", "leyline/two.py": "import esper.leyline.one"},
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_planted_violation_breaks_its_contract(copy: Path, contract: str, files: dict[str, str]) -> None:
    plant(copy / "src", {name: f'"""Planted."""\n{line}\n' for name, line in files.items()})
    code, text = run_contracts(copy, copy / "src")
    assert code == 1, text
    assert f"{contract} BROKEN" in text


def find_root_imports(root: Path) -> list[str]:
    """Name files of a room that import the root package: its lazy table would close a cycle."""
    return [
        f"{file.name}:{line} imports the root package"
        for file in read_sources(root)
        if file.room
        for line, module in imported_modules(file.tree)
        if module == "esper"
    ]


def find_side_doors(root: Path) -> list[str]:
    """Name imports that reach into another room's file instead of its front door.

    The wiring and the doors may import a file: front doors must stay light, so an optional or heavy part
    (a dashboard, a diagnostic) is not on them.
    """
    found = []
    for file in read_sources(root):
        if file.room in ("", "runtime", "cli"):
            continue
        modules = {
            (line, module.split(".")[1])
            for line, module in imported_modules(file.tree)
            if module.startswith("esper.")
            and module.split(".")[1] != file.room
            and (root.joinpath(*module.split(".")).with_suffix(".py")).exists()
        }
        found += [f"{file.name}:{line} reaches into {room}" for line, room in sorted(modules)]
    return found


def test_no_room_imports_the_root_package() -> None:
    assert find_root_imports(SRC) == []


def test_a_root_import_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"data/a.py": "import esper\n", "__main__.py": "import esper\n"})
    assert find_root_imports(tmp_path) == ["data/a.py:1 imports the root package"]


def test_rooms_use_each_others_front_doors() -> None:
    assert find_side_doors(SRC) == []


def test_a_side_door_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "leyline/stages.py": "",
            "data/a.py": "from esper.leyline.stages import SeedStage\n",
            "data/b.py": "from esper.leyline import SeedStage\nfrom esper.data.a import SeedStage as S\n",
        },
    )
    assert find_side_doors(tmp_path) == ["data/a.py:1 reaches into leyline"]
