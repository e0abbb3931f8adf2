"""README shows the whole source tree, one comment per file, made from the files' own docstrings."""

from __future__ import annotations

from pathlib import Path

import pytest

from readme_tree import BEGIN, END, build_readme, build_tree, find_missing_comments
from source_tree import REPO, SRC, first_sentence, plant


def test_readme_shows_the_tree_as_it_is() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert readme == build_readme(readme, SRC), "run `make generate`"


def test_every_source_file_has_a_comment() -> None:
    assert find_missing_comments(SRC) == []


def test_a_file_without_a_comment_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"__init__.py": '"""Front."""\n', "data/a.py": "x = 1\n"})
    assert find_missing_comments(tmp_path) == ["data/a.py"]


def test_an_added_and_a_removed_file_change_the_readme(tmp_path: Path) -> None:
    plant(tmp_path, {"__init__.py": '"""Front."""\n', "data/a.py": '"""Alpha. More."""\n'})
    readme = build_readme(f"before\n{BEGIN}\n{END}\nafter\n", tmp_path)
    assert build_readme(readme, tmp_path) == readme
    plant(tmp_path, {"data/sub/b.py": '"""Beta."""\n'})
    assert build_readme(readme, tmp_path) != readme
    (tmp_path / "esper/data/sub/b.py").unlink()
    (tmp_path / "esper/data/a.py").unlink()
    assert build_readme(readme, tmp_path) != readme


def test_folders_are_headings_and_front_doors_come_first(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "data/__init__.py": '"""Sets."""\n',
            "data/a.py": '"""Alpha."""\n',
            "data/sub/b.py": '"""Beta."""\n',
            "__init__.py": '"""Front."""\n',
            "zeta.py": '"""Last."""\n',
        },
    )
    names = [line.split()[0] for line in build_tree(tmp_path).splitlines()[2:-1]]
    assert names == ["__init__.py", "zeta.py", "data/", "__init__.py", "a.py", "sub/", "b.py"]


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One. Two.", "One"),
        ("One line\nand its end.\n\nMore.", "One line and its end"),
        ("Shapes, e.g. [B, C], of a batch. More.", "Shapes, e.g. [B, C], of a batch"),
        ("No full stop", "No full stop"),
        ("Version 0.5 of it. More", "Version 0.5 of it"),
        ("", ""),
    ],
)
def test_a_comment_is_the_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence
