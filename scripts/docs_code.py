"""python scripts/docs_code.py: run the python blocks of README.md and docs/ that are marked runnable.

A block is marked by the line `<!-- runnable -->` right before its fence. The marked blocks of one page run in
order as one program, in an empty folder, so that a page reads as one session.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from source_tree import REPO, SRC

MARK = "<!-- runnable -->"
BLOCK = re.compile(re.escape(MARK) + r"\n+```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
TIMEOUT_SECONDS = 240


def pages(repo: Path) -> tuple[Path, ...]:
    """Return README.md and every page of docs/ that holds a mark."""
    candidates = [repo / "README.md", *sorted((repo / "docs").rglob("*.md"))]
    return tuple(page for page in candidates if page.exists() and MARK in page.read_text(encoding="utf-8"))


def runnable_program(text: str) -> str:
    """Return the marked blocks of a page as one program whose line numbers are those of the page.

    Raises:
        ValueError: If a mark is not followed by a closed python block.
    """
    matches = list(BLOCK.finditer(text))
    if len(matches) != text.count(MARK):
        raise ValueError(f"{text.count(MARK)} marks, {len(matches)} closed python blocks after a mark")
    return "".join(_padded(text, matches))


def _padded(text: str, matches: list[re.Match[str]]) -> Iterator[str]:
    written = 0
    for match in matches:
        line = text.count("\n", 0, match.start("code"))
        yield "\n" * (line - written) + match["code"]
        written = line + match["code"].count("\n")


def run_page(page: Path) -> subprocess.CompletedProcess[str]:
    """Run the program of one page in an empty folder and return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, "-c", runnable_program(page.read_text(encoding="utf-8"))],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(SRC)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )


def main() -> int:
    """Run every page; return 1 if one fails."""
    code = 0
    for page in pages(REPO):
        answer = run_page(page)
        print(f"{'ok' if answer.returncode == 0 else 'FAILED'}  {page.relative_to(REPO)}")
        if answer.returncode != 0:
            print(answer.stdout + answer.stderr)
            code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
