"""Texts that are generated from code: written in place, or compared with what is there."""

from __future__ import annotations

import sys
from pathlib import Path

NOTE = "<!-- Generated from the code by `make generate`; do not edit by hand. -->"


def replace_between(text: str, begin: str, end: str, block: str) -> str:
    """Return `text` with the lines between the lines `begin` and `end` replaced by `block`.

    Raises:
        ValueError: If the two marker lines do not stand once each, in this order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one line {begin!r} and after it one line {end!r}")
    before, rest = text.split(begin)
    return before + begin + "\n" + block.rstrip("\n") + "\n" + end + rest.split(end)[1]


def settle(path: Path, text: str, *, is_check: bool) -> int:
    """Write `text` to `path`, or with `is_check` only compare; return the exit code.

    Args:
        path: The generated file.
        text: What it should hold.
        is_check: Compare instead of writing.
    """
    present = path.read_text(encoding="utf-8") if path.exists() else None
    if present == text:
        return 0
    if is_check:
        print(f"{path} is out of date: run `make generate`", file=sys.stderr)
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return 0
