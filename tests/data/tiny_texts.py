"""Small texts that tests write themselves, in the forms in which texts come."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from pyarrow import parquet

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "then", "slept")
TINY_NOVELS = ((0, 900), (902, 700))


def write_prose(num_characters: int, seed: int = 0) -> str:
    """Return words and full stops, exactly so many characters."""
    draw, text = random.Random(seed), ""
    while len(text) < num_characters:
        text += " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 8))).capitalize() + ". "
    return text[:num_characters]


def write_tiny_austen(folder: Path) -> Path:
    """Write `austen/austen.txt` of two novels of 900 and 700 characters; return the folder."""
    target = folder / "austen"
    target.mkdir(parents=True)
    novels = "\n\n".join(write_prose(length, seed) for seed, (_, length) in enumerate(TINY_NOVELS))
    (target / "austen.txt").write_text(novels + "\n", encoding="utf-8", newline="\n")
    return target


def write_stories(path: Path, stories: Sequence[str]) -> None:
    """Write stories with the marks of a TinyStories .txt file between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8", newline="\n")


def write_jsonl(path: Path, documents: Sequence[str]) -> None:
    """Write one object a line, with a field beside the text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(documents)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_parquet(path: Path, documents: Sequence[str], column: str = "text") -> None:
    """Write one row a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: list(documents), "id": list(range(len(documents)))}), path)
