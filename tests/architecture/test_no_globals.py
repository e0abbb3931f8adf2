"""No mutable state at module or class level: two runs in one process must not meet."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from source_tree import SRC, dotted, functions, plant, read_sources

MUTABLE_NODES = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = frozenset(
    {
        "list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque", "ChainMap",
        "WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "local", "ContextVar",
    }
)  # fmt: skip
RANDOM_CALLS = frozenset({"Random", "SystemRandom", "default_rng", "RandomState", "Generator"})
CACHES = frozenset({"cache", "lru_cache"})


def _statements(body: list[ast.stmt], where: str = "module level") -> Iterator[tuple[str, ast.stmt]]:
    """Yield the statements that run on import: of the module, of its classes, and inside if and try."""
    for statement in body:
        yield where, statement
        if isinstance(statement, ast.ClassDef):
            yield from _statements(statement.body, f"class {statement.name}")
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For):
            for name in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, name, []), where)


def _why_mutable(value: ast.expr) -> str | None:
    if isinstance(value, MUTABLE_NODES):
        return "mutable container"
    if isinstance(value, ast.Call):
        name = dotted(value.func).split(".")[-1]
        if name in MUTABLE_CALLS:
            return "mutable container"
        if name in RANDOM_CALLS:
            return "random generator"
        if name.endswith(("Hub", "Sink", "Cache")) and not name.startswith(
            "Null"
        ):  # null objects hold nothing
            return "shared object"
    return None


def _assigned(statement: ast.stmt) -> tuple[list[ast.expr], ast.expr | None]:
    if isinstance(statement, ast.Assign):
        return statement.targets, statement.value
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return [statement.target], statement.value
    return [], None


def find_globals(root: Path) -> list[str]:
    """Name `global` statements, caches by decorator, and mutable module-level or class-level values."""
    found = []
    for file in read_sources(root):
        for where, statement in _statements(file.tree.body):
            targets, value = _assigned(statement)
            names = [dotted(target) for target in targets]
            reason = _why_mutable(value) if value is not None else None
            if reason is not None and names != ["__all__"]:
                found.append(f"{file.name}:{statement.lineno} {reason} {', '.join(names)} at {where}")
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Global):
                found.append(f"{file.name}:{node.lineno} global statement")
        for function in functions(file.tree):
            for decorator in function.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                if dotted(called).split(".")[-1] in CACHES:
                    found.append(f"{file.name}:{function.lineno} cache on {function.name}")
    return found


def test_no_module_holds_mutable_state() -> None:
    assert find_globals(SRC) == []


def test_every_kind_of_global_state_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/a.py": (
                "__all__ = ['f']\n"
                "SEEN = {}\n"
                "NAMES: list[str] = []\n"
                "QUEUE = collections.deque()\n"
                "RNG = torch.Generator()\n"
                "HUB = EventHub()\n"
                "class A:\n    shared = {1: 2}\n"
                "if True:\n    LATE = set()\n"
                "def f():\n    global SEEN\n    mine = {}\n"
                "@functools.lru_cache(maxsize=1)\ndef g(): ...\n"
            ),
            "data/b.py": (
                "from types import MappingProxyType\n"
                "TABLE = MappingProxyType({1: 2})\nIDS = (1, 2)\nNAMES = frozenset({1})\nSINK = NullSink()\n"
                "@dataclass\nclass B:\n    items: dict[str, int] = field(default_factory=dict)\n"
            ),
        },
    )
    assert find_globals(tmp_path) == [
        "data/a.py:2 mutable container SEEN at module level",
        "data/a.py:3 mutable container NAMES at module level",
        "data/a.py:4 mutable container QUEUE at module level",
        "data/a.py:5 random generator RNG at module level",
        "data/a.py:6 shared object HUB at module level",
        "data/a.py:8 mutable container shared at class A",
        "data/a.py:10 mutable container LATE at module level",
        "data/a.py:12 global statement",
        "data/a.py:15 cache on g",
    ]
