"""python scripts/docs_code.py: run the runnable blocks of README.md and docs/, and list the others.

Before the fence of every block of Python or shell stands one of two marks: `<!-- runnable -->`, or
`<!-- not run: REASON -->`; a page of measurements may say it once, in a line of its own,
`<!-- what has no mark is not run: REASON -->`. The runnable blocks of one page run in order as one program,
in a folder that holds nothing but links to `examples`, `benchmarks` and `scripts`, so a page reads as one
session in a clone of the repository. A shell block is a `bash` of its own that stops at the first one that
fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from source_tree import REPO, SRC

MARK = "<!-- runnable -->"
REASON = re.compile(r"<!-- not run: (?P<why>\S.*\S) -->")
PAGE_REASON = re.compile(r"^<!-- what has no mark is not run: (?P<why>\S.*\S) -->$", re.MULTILINE)
BLOCK = re.compile(
    re.escape(MARK) + r"\n+```(?P<language>python|bash)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
COMMAND = re.compile(r"^(?:\w+=\S+ )*(?:esper|python|pip|make|torchrun|sbatch|source|ssh) ", re.MULTILINE)
LINKED = ("examples", "benchmarks", "scripts")
TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrun:
    """A block of Python or shell that no test runs; `why` is None where the page does not say."""

    page: str
    line: int
    why: str | None


def all_pages(repo: Path) -> tuple[Path, ...]:
    """Return README.md and every page of docs/."""
    candidates = [repo / "README.md", *sorted((repo / "docs").rglob("*.md"))]
    return tuple(page for page in candidates if page.exists())


def pages(repo: Path) -> tuple[Path, ...]:
    """Return those that hold a runnable block."""
    return tuple(page for page in all_pages(repo) if MARK in page.read_text(encoding="utf-8"))


def find_unrun(repo: Path) -> tuple[Unrun, ...]:
    """Return every block of Python or shell without a runnable mark, by page and line.

    A block that calls itself text, but has a line that begins with a command, is one of shell.
    """
    found = []
    for page in all_pages(repo):
        text = page.read_text(encoding="utf-8")
        of_page = PAGE_REASON.search(text)
        for fence in FENCE.finditer(text):
            if not _is_code(fence["language"], fence["code"]):
                continue
            before = text[: fence.start()].rstrip("\n").rsplit("\n", 1)[-1].strip()
            if before != MARK:
                reason = REASON.fullmatch(before) or of_page
                line = text.count("\n", 0, fence.start()) + 1
                name = page.relative_to(repo).as_posix()
                found.append(Unrun(page=name, line=line, why=reason["why"] if reason else None))
    return tuple(found)


def _is_code(language: str, code: str) -> bool:
    if language in ("python", "bash", "console", "sh", "shell"):
        return True
    return language in ("", "text") and COMMAND.search(code) is not None


def runnable_program(text: str) -> str:
    """Return the marked blocks of a page as one program whose line numbers are those of the page.

    Raises:
        ValueError: If a mark is not followed by a closed block of python or bash.
    """
    matches = list(BLOCK.finditer(text))
    if len(matches) != text.count(MARK):
        raise ValueError(
            f"{text.count(MARK)} marks, {len(matches)} closed blocks of python or bash after a mark"
        )
    return "".join(_padded(text, matches))


def _padded(text: str, matches: list[re.Match[str]]) -> Iterator[str]:
    written = 0
    for match in matches:
        line = text.count("\n", 0, match.start("code"))
        code = match["code"] if match["language"] == "python" else _shell_call(match["code"])
        yield "\n" * (line - written) + code
        written = line + code.count("\n")


def _shell_call(code: str) -> str:
    """Return one line of Python that runs a block of shell, and fails with it."""
    return f"__import__('subprocess').run(['bash', '-euo', 'pipefail', '-c', {code!r}], check=True)\n"


def run_page(page: Path) -> subprocess.CompletedProcess[str]:
    """Run the program of one page in a folder with links alone, and return how it ended.

    `esper` and `python` are those of the interpreter that runs this.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as tools:
        for name in LINKED:
            (Path(folder) / name).symlink_to(REPO / name)
        for name, command in (("python", ""), ("esper", " -m esper")):
            tool = Path(tools) / name
            tool.write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n', encoding="utf-8")
            tool.chmod(0o755)
        return subprocess.run(
            [sys.executable, "-c", runnable_program(page.read_text(encoding="utf-8"))],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(SRC),
                "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )


def main() -> int:
    """Run every page, list what is not run and why; return 1 if a page fails or a block has no mark."""
    code = 0
    for page in pages(REPO):
        answer = run_page(page)
        print(f"{'ok' if answer.returncode == 0 else 'FAILED'}  {page.relative_to(REPO)}")
        if answer.returncode != 0:
            print(answer.stdout + answer.stderr)
            code = 1
    unrun = find_unrun(REPO)
    for block in unrun:
        print(f"not run  {block.page}:{block.line}  {block.why or 'NO MARK'}")
    return 1 if any(block.why is None for block in unrun) else code


if __name__ == "__main__":
    raise SystemExit(main())
