"""The pages equal the code: generated ones are fresh, the site builds and loads nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import config_reference
import lifecycle_page
from generated import replace_between, settle
from site_requests import find_requests
from source_tree import REPO, SRC, exported_names, plant, read_sources

DOCS = REPO / "docs"


def test_the_configuration_page_equals_the_code() -> None:
    assert config_reference.PAGE.read_text(encoding="utf-8") == config_reference.build_page(SRC), (
        "run `make generate`"
    )


def test_the_lifecycle_page_equals_the_tables() -> None:
    assert lifecycle_page.PAGE.read_text(encoding="utf-8") == lifecycle_page.build_page(), (
        "run `make generate`"
    )


def test_a_changed_default_changes_the_configuration_page(tmp_path: Path) -> None:
    text = 'class AConfig:\n    """A."""\n    rate: float | None = {}\n    """In [0, 1]."""\n'
    page = config_reference.build_page(plant(tmp_path, {"data/a.py": text.format("0.1")}))
    assert "| `rate` | <code>float &#124; None</code> | `0.1` | In [0, 1]. |" in page
    assert config_reference.build_page(plant(tmp_path, {"data/a.py": text.format("0.2")})) != page


def test_check_mode_reports_a_stale_page_and_leaves_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert settle(page, "new", is_check=False) == 0
    assert settle(page, "new", is_check=True) == 0
    assert settle(page, "newer", is_check=True) == 1
    assert page.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("text", ["", "<a>\n", "<b>\n<a>\n", "<a>\n<a>\n<b>\n"])
def test_missing_or_doubled_markers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected one line"):
        replace_between(text, "<a>", "<b>", "new")


@pytest.mark.slow
def test_the_site_builds_without_warnings_documents_every_export_and_loads_nothing(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert find_requests(tmp_path / "site") == []
    assert find_undocumented(SRC, tmp_path / "site") == []
    page = (tmp_path / "site/api/leyline/index.html").read_text(encoding="utf-8")
    assert "&gt;&gt;&gt;" in page
    assert "<blockquote>" not in page, "an example of a docstring was read as a quotation"


def find_undocumented(root: Path, site: Path) -> list[str]:
    """Name exports of a room that have no anchor on the room's page of the built site."""
    found = []
    for file in read_sources(root):
        if not (file.is_front_door and file.name.count("/") == 1):
            continue
        html = (site / "api" / file.room / "index.html").read_text(encoding="utf-8")
        anchors = set(re.findall(rf'id="esper\.{file.room}\.(\w+)"', html))
        found += [f"{file.room}.{name}" for name in exported_names(file) or () if name not in anchors]
    return found


def test_an_undocumented_export_is_found(tmp_path: Path) -> None:
    plant(tmp_path / "src", {"data/__init__.py": "__all__ = ['A', 'b']\n"})
    page = tmp_path / "site/api/data/index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<h2 id="esper.data.A">A</h2>', encoding="utf-8")
    assert find_undocumented(tmp_path / "src", tmp_path / "site") == ["data.b"]


def test_requests_to_other_machines_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://a.example/"><a href="https://b.example/">text</a>'
        '<script src="https://c.example/x.js"></script><img src="//d.example/x.png"><img src="local.png">'
        '<link rel="stylesheet" href="css/base.css"><style>@import "https://e.example/x.css"</style>',
        encoding="utf-8",
    )
    (tmp_path / "base.css").write_text(
        "a { src: url('https://f.example/x.woff') url(local.woff) }", encoding="utf-8"
    )
    assert find_requests(tmp_path) == [
        "index.html: https://c.example/x.js",
        "index.html: //d.example/x.png",
        "index.html: https://e.example/x.css",
        "base.css: https://f.example/x.woff",
    ]


def test_every_page_is_in_the_navigation_and_every_decision_is_numbered() -> None:
    navigation = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    names = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md"))]
    assert [name for name in names if navigation.count(f": {name}\n") != 1] == []
    numbers = [int(page.name[:4]) for page in sorted((DOCS / "decisions").glob("0*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_glossary_defines_each_word_once() -> None:
    words = re.findall(r"^\*\*(.+?)\*\*", (DOCS / "GLOSSARY.md").read_text(encoding="utf-8"), re.MULTILINE)
    loops = {"round", "episode", "step", "epoch", "batch"}
    growth = {"host", "slot", "seed", "blueprint", "alpha", "cull", "fossilise"}
    measures = {"metric", "contribution", "rent"}
    assert len(words) == len(set(words))
    assert (loops | growth | measures) - set(words) == set()
