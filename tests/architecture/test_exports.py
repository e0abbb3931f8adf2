"""Front doors: what a room exports exists, is sorted, has one home, and is in the API reference."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from pathlib import Path

import pytest

from source_tree import REPO, SRC, SourceFile, exported_names, plant, read_sources

ROOMS = ("cli", "data", "kasmina", "leyline", "nissa", "runtime", "tamiyo", "tolaria")


def _sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest; each by name."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def _bound_names(file: SourceFile) -> set[str]:
    """Names that the module binds at its top level."""
    names: set[str] = set()
    for node in file.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _defined_names(file: SourceFile) -> set[str]:
    """Names that the module itself defines: what it binds less what it imports."""
    imported = {
        alias.asname or alias.name
        for node in file.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return _bound_names(file) - imported


def find_export_faults(root: Path) -> list[str]:
    """Name front doors without `__all__`, exports that are unsorted, unbound, or have two homes."""
    files = read_sources(root)
    found = []
    doors: dict[str, list[str]] = defaultdict(list)
    for file in files:
        names = exported_names(file)
        if names is None:
            if file.is_front_door and file.name.count("/") == 1:
                found.append(f"{file.name}: has no __all__")
            continue
        if names != sorted(set(names), key=_sort_key):
            found.append(f"{file.name}: __all__ is not sorted or holds a duplicate")
        is_lazy = "__getattr__" in _bound_names(file)
        found += [
            f"{file.name}: {name} is not there"
            for name in names
            if not is_lazy and name not in _bound_names(file)
        ]
        if file.is_front_door and file.room:
            for name in names:
                doors[name].append(file.room)
    for name, rooms in sorted(doors.items()):
        if len(set(rooms)) > 1:
            found.append(f"{name} leaves by {', '.join(sorted(set(rooms)))}")
        homes = [file.name for file in files if not file.is_front_door and name in _defined_names(file)]
        if len(homes) > 1:
            found.append(f"{name} is defined in {', '.join(homes)}")
    return found


def test_front_doors_are_in_order() -> None:
    assert find_export_faults(SRC) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_can_be_imported(room: str) -> None:
    module = importlib.import_module(f"esper.{room}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_every_name_of_the_lazy_table_can_be_imported() -> None:
    module = importlib.import_module("esper")
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_an_api_page(room: str) -> None:
    assert f"::: esper.{room}\n" in (REPO / "docs" / "api" / f"{room}.md").read_text(encoding="utf-8")


def test_export_faults_are_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/__init__.py": "from esper.data.a import B, a\n__all__ = ['a', 'B', 'gone']\n",
            "data/a.py": "class B: ...\ndef a(): ...\n",
            "data/c.py": "class B: ...\n",
            "nissa/__init__.py": "from esper.data import B\n__all__ = ['B']\n",
            "tamiyo/__init__.py": "",
        },
    )
    assert find_export_faults(tmp_path) == [
        "data/__init__.py: __all__ is not sorted or holds a duplicate",
        "data/__init__.py: gone is not there",
        "tamiyo/__init__.py: has no __all__",
        "B leaves by data, nissa",
        "B is defined in data/a.py, data/c.py",
    ]
