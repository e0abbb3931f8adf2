"""Documents: the same content in both forms, foreign text inert in both, and pages that load nothing."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from esper.nissa.analytics.document import (
    Document,
    FigureBlock,
    Image,
    Section,
    TextBlock,
    build_table,
    render_fragment,
    render_html,
    render_markdown,
    render_section,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&| [a](javascript:b) \x1b[31m\nnext"


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _never() -> Figure:
    raise AssertionError("a figure is drawn only where it is shown")


DOCUMENT = Document(
    title=f"Run {EVIL}",
    head=(TextBlock(text=EVIL), FigureBlock(name="curve", alt=EVIL, draw=_never)),
    sections=(
        Section(
            title=EVIL,
            blocks=(build_table(("name", "count"), [(EVIL, "1,204"), ("b", "-")]), build_table(("a",), [])),
        ),
    ),
)
PAGE = render_html(DOCUMENT, {"curve": Image(media_type="image/svg+xml", data=b"<svg/>")}, made_by="me")


def test_foreign_text_is_text_in_a_page() -> None:
    tags = Tags(PAGE)
    names = {tag for tag, _ in tags.found}
    assert "script" not in names
    assert [attrs for tag, attrs in tags.found if tag == "img"] == [
        {
            "alt": EVIL.replace("\x1b[31m", "").replace("\n", " "),
            "src": "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        }
    ]
    assert tags.text.count("<script>alert(1)</script>") == 6  # page, title, paragraph, link, heading, cell
    assert not [name for _, attrs in tags.found for name in attrs if name.startswith("on")]


def test_a_page_loads_nothing_and_says_so() -> None:
    tags = Tags(PAGE)
    targets = [
        value
        for _, attrs in tags.found
        for name, value in attrs.items()
        if name in {"src", "href", "action", "data"} and value is not None
    ]
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    (policy,) = [attrs["content"] for tag, attrs in tags.found if "http-equiv" in attrs]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "link" not in {tag for tag, _ in tags.found}


def test_columns_of_numbers_are_to_the_right() -> None:
    cells = [attrs for tag, attrs in Tags(PAGE).found if tag == "td"]
    assert cells == [{}, {"class": "number"}, {}, {"class": "number"}]
    assert "<p>None.</p>" in PAGE


def test_markdown_has_figures_where_they_have_a_file() -> None:
    assert "![" not in render_markdown(DOCUMENT, {}).replace("!\\[", "")
    assert "](curve.svg)" in render_markdown(DOCUMENT, {"curve": "curve.svg"})
    assert [figure.name for figure in DOCUMENT.figures] == ["curve"]


def test_markdown_cells_stay_in_their_column() -> None:
    rows = [line for line in render_section(DOCUMENT.sections[0]).splitlines() if line.startswith("| ")]
    assert [line.replace("\\|", "").count("|") for line in rows] == [3, 3, 3, 3]
    assert "<script>" not in "\n".join(rows)


def test_a_fragment_is_no_page() -> None:
    fragment = render_fragment(DOCUMENT, {})
    assert fragment.startswith("<h3>")
    assert {"html", "style", "script"}.isdisjoint(tag for tag, _ in Tags(fragment).found)
