"""python scripts/readme_tree.py [--check]: the source tree of README.md, one comment per file.

The comment is the first sentence of the file's docstring.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generated import replace_between, settle
from source_tree import REPO, SRC, SourceFile, read_sources

BEGIN = "<!-- tree: begin (make generate) -->"
END = "<!-- tree: end -->"
NAME_WIDTH = 30


def build_tree(root: Path) -> str:
    """Return the fenced tree of the package under `root`: folders as headings, files with their comment."""
    lines = ["```text", "src/esper/"]
    seen: set[str] = set()
    for file in sorted(read_sources(root), key=_order):
        for folder in _new_folders(file, seen):
            lines.append("  " * folder.count("/") + "  " + folder.split("/")[-1] + "/")
        indent = "  " * (file.name.count("/") + 1)
        lines.append(f"{indent + file.path.name:<{NAME_WIDTH}} {file.summary}".rstrip())
    return "\n".join([*lines, "```"])


def find_missing_comments(root: Path) -> list[str]:
    """Name files whose docstring has no first sentence."""
    return [file.name for file in read_sources(root) if not file.summary]


def _order(file: SourceFile) -> tuple[object, ...]:
    """Files of a folder before its sub-folders, front doors first."""
    *folders, name = file.name.split("/")
    key: list[object] = []
    for folder in folders:
        key += [1, folder]
    return (*key, 0, "" if name == "__init__.py" else name)


def _new_folders(file: SourceFile, seen: set[str]) -> list[str]:
    parts = file.name.split("/")[:-1]
    new = ["/".join(parts[: i + 1]) for i in range(len(parts)) if "/".join(parts[: i + 1]) not in seen]
    seen.update(new)
    return new


def build_readme(readme: str, root: Path) -> str:
    """Return the README text with its tree block made anew."""
    return replace_between(readme, BEGIN, END, build_tree(root))


if __name__ == "__main__":
    path = REPO / "README.md"
    readme = build_readme(path.read_text(encoding="utf-8"), SRC)
    raise SystemExit(settle(path, readme, is_check="--check" in sys.argv[1:]))
