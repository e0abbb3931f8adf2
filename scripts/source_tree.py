"""A source root as generators and architecture tests see it: files and syntax trees.

Imports nothing of esper. Every rule is a function over such a root, so that a planted violation in a
temporary root shows that the rule can fail.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SRC = REPO / "src"

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One Python file under a source root."""

    path: Path
    name: str
    """Path relative to the package, e.g. "kasmina/hosts/cnn.py"."""
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """First folder, or "" for a file directly in the package."""
        return self.name.split("/")[0] if "/" in self.name else ""

    @property
    def is_front_door(self) -> bool:
        """Whether this is an `__init__.py`."""
        return self.path.name == "__init__.py"

    @property
    def summary(self) -> str:
        """First sentence of the module docstring on one line, "" if there is none."""
        return first_sentence(ast.get_docstring(self.tree) or "")

    @property
    def num_lines(self) -> int:
        """Lines of the file."""
        return len(self.text.splitlines())


def read_sources(root: Path) -> tuple[SourceFile, ...]:
    """Read every Python file of the package `esper` under `root`, sorted by name."""
    package = root / "esper"
    paths = sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)
    return tuple(read_file(path, package) for path in paths)


def read_file(path: Path, base: Path) -> SourceFile:
    """Read and parse one file; its name is relative to `base`."""
    text = path.read_text(encoding="utf-8")
    return SourceFile(
        path=path, name=path.relative_to(base).as_posix(), text=text, tree=ast.parse(text, filename=str(path))
    )


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Write files (name relative to the package -> text) under `root` and return `root`."""
    for name, text in files.items():
        path = root / "esper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Yield every function and method, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield node


def dotted(node: ast.AST) -> str:
    """Return "a.b.c" for a name or attribute chain, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module) of every import, "from a import b" as "a" and as "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def exported_names(file: SourceFile) -> list[str] | None:
    """Return the strings of a module's `__all__` in their order, or None if it has none."""
    for node in file.tree.body:
        if isinstance(node, ast.Assign) and any(dotted(target) == "__all__" for target in node.targets):
            return [str(value) for value in ast.literal_eval(node.value)]
    return None


def first_sentence(docstring: str) -> str:
    """Return the first sentence of the first paragraph on one line, without its full stop.

    A sentence ends at a full stop before a blank; the dots of "e.g. this" and "i.e. that" do not end one.
    """
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    match = re.search(r"(?<!e\.g)(?<!i\.e)(?<!vs)\.(?=\s|$)", paragraph)
    return paragraph[: match.start()] if match else paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """One field of a `*Config` dataclass, as written."""

    name: str
    annotation: str
    default: str | None
    """Source text of the default, "GateConfig()" for a default factory; None = required."""
    docstring: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigClass:
    """One class whose name ends in "Config"."""

    file: SourceFile
    name: str
    docstring: str
    decorator: str
    """Source text of its dataclass decorator, "" if it has none."""
    fields: tuple[ConfigField, ...]
    line: int


def read_configs(files: Iterable[SourceFile]) -> tuple[ConfigClass, ...]:
    """Return every `*Config` class of the given files in order of file and line."""
    return tuple(
        _read_config(file, node)
        for file in files
        for node in file.tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
    )


def _read_config(file: SourceFile, node: ast.ClassDef) -> ConfigClass:
    decorators = [ast.unparse(item) for item in node.decorator_list if "dataclass" in ast.unparse(item)]
    return ConfigClass(
        file=file,
        name=node.name,
        docstring=ast.get_docstring(node) or "",
        decorator=decorators[0] if decorators else "",
        fields=tuple(_read_fields(node)),
        line=node.lineno,
    )


def _read_fields(node: ast.ClassDef) -> Iterator[ConfigField]:
    for position, item in enumerate(node.body):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(item.annotation):
            continue
        yield ConfigField(
            name=item.target.id,
            annotation=ast.unparse(item.annotation),
            default=_default_text(item.value),
            docstring=_string_after(node.body, position),
            line=item.lineno,
        )


def _string_after(body: list[ast.stmt], position: int) -> str:
    after = body[position + 1] if position + 1 < len(body) else None
    if (
        isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    ):
        return " ".join(after.value.value.split())
    return ""


def _default_text(value: ast.expr | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, ast.Call) and dotted(value.func).split(".")[-1] == "field":
        keywords = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default" in keywords:
            return ast.unparse(keywords["default"])
        factory = keywords.get("default_factory")
        if factory is None:
            return None
        return ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else f"{ast.unparse(factory)}()"
    return ast.unparse(value)
