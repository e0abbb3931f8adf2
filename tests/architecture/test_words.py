"""The words of the code: ASCII only, no empty names, fractions instead of per cent, public torch names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from source_tree import REPO, SRC, SourceFile, dotted, imported_modules, plant, read_file, read_sources

BANNED = re.compile(r"(^|_)(manager|utils|helpers|common|percent)(_|$)|^_?(process|handle)_")
BANNED_CLASS = re.compile(r"(Manager|Utils|Helpers|Common)")
SHOWS_PERCENT = frozenset({"nissa", "cli"})


def _banned_names(file: SourceFile) -> list[str]:
    found = []
    if BANNED.search(file.path.stem):
        found.append(f"{file.name}: banned word in the file name")
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and BANNED.search(node.name):
            if not (file.room in SHOWS_PERCENT and "percent" in node.name):
                found.append(f"{file.name}:{node.lineno} banned word in {node.name}")
        elif isinstance(node, ast.ClassDef) and BANNED_CLASS.search(node.name):
            found.append(f"{file.name}:{node.lineno} banned word in {node.name}")
    return found


def _percent_fields(file: SourceFile) -> list[str]:
    if file.room in SHOWS_PERCENT:
        return []
    return [
        f"{file.name}:{item.lineno} field {item.target.id} counts in percent"
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "percent" in item.target.id
    ]


def _private_torch(file: SourceFile) -> list[str]:
    private = re.compile(r"^torch(\.\w+)*\._[a-z]\w*")
    names = [(line, module) for line, module in imported_modules(file.tree)]
    names += [(node.lineno, dotted(node)) for node in ast.walk(file.tree) if isinstance(node, ast.Attribute)]
    found = {(line, match.group()) for line, name in names if (match := private.match(name)) is not None}
    lines = {line: min(name for other, name in found if other == line) for line, _ in found}
    return [f"{file.name}:{line} private name {name}" for line, name in sorted(lines.items())]


def _untyped(file: SourceFile) -> list[str]:
    """`Any` switches the type checker off for whatever it touches; `object` does not."""
    names = {id(node): node.id for node in ast.walk(file.tree) if isinstance(node, ast.Name)}
    return [
        f"{file.name}:{node.lineno} Any: say object, a type variable or JsonValue"
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (names.get(id(node)) == "Any" or dotted(node) == "typing.Any")
    ]


def find_sleeps(root: Path) -> list[str]:
    """Name the calls under a folder that wait for a clock."""
    return [
        f"{path.name}:{node.lineno} sleeps"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "sleep"
    ]


def _non_ascii(file: SourceFile) -> list[str]:
    return [
        f"{file.name}:{number} not ASCII"
        for number, line in enumerate(file.text.splitlines(), 1)
        if not line.isascii()
    ]


def find_bad_words(root: Path) -> list[str]:
    """Name non-ASCII lines, banned names, percent fields, private torch names and Any under a source root."""
    return [
        problem
        for file in read_sources(root)
        for problem in (
            *_non_ascii(file),
            *_banned_names(file),
            *_percent_fields(file),
            *_private_torch(file),
            *_untyped(file),
        )
    ]


def test_source_uses_the_words_of_the_house() -> None:
    assert find_bad_words(SRC) == []


def test_tests_and_scripts_are_ascii() -> None:
    files = [path for folder in ("tests", "scripts") for path in sorted((REPO / folder).rglob("*.py"))]
    assert [problem for path in files for problem in _non_ascii(read_file(path, REPO))] == []


def test_bad_words_are_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/utils.py": "",
            "data/a.py": (
                "import torch\n"
                "def process_batch(): ...\n"
                "class CacheManager: ...\n"
                "class A:\n    drop_percent: float = 1.0\n"
                "x = torch._foreach_norm\n"
                "from torch._dynamo import config\n"
                "word = '\u00e9'\n"
            ),
            "nissa/b.py": "class View:\n    percent: float\ndef as_percent(x): ...\ny = torch.__version__\n",
        },
    )
    assert find_bad_words(tmp_path) == [
        "data/a.py:8 not ASCII",
        "data/a.py:2 banned word in process_batch",
        "data/a.py:3 banned word in CacheManager",
        "data/a.py:5 field drop_percent counts in percent",
        "data/a.py:6 private name torch._foreach_norm",
        "data/a.py:7 private name torch._dynamo",
        "data/utils.py: banned word in the file name",
    ]


def test_no_test_waits_for_a_clock() -> None:
    assert find_sleeps(REPO / "tests") == []


def test_a_test_that_sleeps_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text("import time\n\ntime.sleep(1)\n", encoding="utf-8")
    assert find_sleeps(tmp_path) == ["test_slow.py:3 sleeps"]


def test_an_untyped_name_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"kasmina/loose.py": '"""Loose."""\nfrom typing import Any\n\nthing: Any = 1\n'})
    assert any("Any: say object" in problem for problem in find_bad_words(tmp_path))
