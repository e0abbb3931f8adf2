"""A report as data: sections of text, tables and figures; and the same as Markdown and as one HTML page.

Names in it may come from anywhere. In Markdown they are made inert, in HTML they are escaped, figures are
embedded as images, and the page loads nothing and runs nothing: it says so itself.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from esper.nissa.text import clean_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # noqa: TC004 - a field's type that is never evaluated

_MARKUP = re.compile(r"[\\`*{}\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_NUMBER = re.compile(r"[+-]?[0-9][0-9,.]*(?:e[+-]?[0-9]+)?(?: .*)?|-|nan|[+-]?inf|not measured")
_NONE, _UNKNOWN = "None.", "-"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
nav a { margin-right: 0.9rem; color: #0072b2; } img { max-width: 100%; height: auto; }
.table { overflow-x: auto; margin: 0.8rem 0; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #e5e5e5; text-align: left; vertical-align: top; }
th { background: #f5f5f5; } th.number, td.number { text-align: right; } td.number { white-space: nowrap;
  font-variant-numeric: tabular-nums; }
footer { margin-top: 3rem; color: #777; font-size: 0.85rem; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """One paragraph of plain text."""

    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TableBlock:
    """Rows of plain text under a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FigureBlock:
    """A picture that is drawn only where it is shown."""

    name: str
    """Of its file, without a suffix, e.g. "timeline"."""
    alt: str
    """What it shows, for those who do not see it."""
    draw: Callable[[], Figure]


Block = TextBlock | TableBlock | FigureBlock


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report; the first section has the document's own title and no other."""

    title: str
    head: tuple[Block, ...]
    sections: tuple[Section, ...]

    @property
    def figures(self) -> tuple[FigureBlock, ...]:
        """Every figure in order."""
        blocks = (*self.head, *(block for section in self.sections for block in section.blocks))
        return tuple(block for block in blocks if isinstance(block, FigureBlock))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A drawn figure."""

    media_type: str
    """"image/svg+xml" or "image/png"."""
    data: bytes


def build_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> TableBlock:
    """Return a table block of any sequences."""
    return TableBlock(head=tuple(head), rows=tuple(map(tuple, rows)))


def render_markdown(document: Document, files: Mapping[str, str]) -> str:
    """Return the document as Markdown text.

    Args:
        document: What to say.
        files: Name of a figure -> its file, relative to the text; a figure without a file is left out.

    Example:
        >>> render_markdown(Document(title="Two runs", head=(), sections=()), {}).splitlines()
        ['# Two runs']
    """
    parts = [f"# {escape_markdown(document.title)}\n", *_markdown_blocks(document.head, files)]
    for section in document.sections:
        parts += [f"## {escape_markdown(section.title)}\n", *_markdown_blocks(section.blocks, files)]
    return "\n".join(parts)


def render_section(section: Section) -> str:
    """Return one section as Markdown, its figures left out."""
    return "\n".join((f"## {escape_markdown(section.title)}\n", *_markdown_blocks(section.blocks, {})))


def render_html(document: Document, images: Mapping[str, Image], *, made_by: str) -> str:
    """Return the document as one HTML page that needs no other file.

    Args:
        document: What to say.
        images: Name of a figure -> the drawn figure; one that is not there is left out.
        made_by: Last line, e.g. program and version.

    Example:
        >>> page = render_html(Document(title="A < B", head=(), sections=()), {}, made_by="me")
        >>> "<h1>A &lt; B</h1>" in page, "<footer>me</footer>" in page
        (True, True)
    """
    title = html.escape(clean_text(document.title))
    links = "\n".join(
        f'<a href="#s{place}">{html.escape(clean_text(section.title))}</a>'
        for place, section in enumerate(document.sections)
    )
    body = [f"<h1>{title}</h1>", f"<nav>{links}</nav>", *_html_blocks(document.head, images)]
    for place, section in enumerate(document.sections):
        body.append(f'<h2 id="s{place}">{html.escape(clean_text(section.title))}</h2>')
        body += _html_blocks(section.blocks, images)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            f"<footer>{html.escape(clean_text(made_by))}</footer>",
            "</body>",
            "</html>",
            "",
        )
    )


def render_fragment(document: Document, images: Mapping[str, Image]) -> str:
    """Return title, facts and all figures as HTML for a notebook's cell: no page around it, no style.

    Args:
        document: What to say.
        images: Name of a figure -> the drawn figure; one that is not there is left out.

    Example:
        >>> render_fragment(Document(title="A < B", head=(), sections=()), {})
        '<h3>A &lt; B</h3>'
    """
    first = [block for block in document.head if not isinstance(block, FigureBlock)]
    title = html.escape(clean_text(document.title))
    return "\n".join((f"<h3>{title}</h3>", *_html_blocks((*first, *document.figures), images)))


def escape_markdown(text: str) -> str:
    """Make foreign text inert in Markdown: no control characters, tags, links, emphasis or extra columns."""
    cleaned = clean_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    cleaned = cleaned.replace("://", "&#58;//")  # no link by itself
    return _MARKUP.sub(r"\\\g<0>", cleaned)


def _markdown_blocks(blocks: Iterable[Block], files: Mapping[str, str]) -> list[str]:
    parts = []
    for block in blocks:
        if isinstance(block, TextBlock):
            parts.append(escape_markdown(block.text) + "\n")
        elif isinstance(block, TableBlock):
            parts.append(_markdown_table(block))
        elif block.name in files:
            parts.append(f"![{escape_markdown(block.alt)}]({files[block.name]})\n")
    return parts


def _markdown_table(block: TableBlock) -> str:
    if not block.rows:
        return _NONE + "\n"
    rule = "|" + " --- |" * len(block.head)
    return "\n".join((_markdown_row(block.head), rule, *map(_markdown_row, block.rows))) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _html_blocks(blocks: Iterable[Block], images: Mapping[str, Image]) -> list[str]:
    parts = []
    for block in blocks:
        if isinstance(block, TextBlock):
            parts.append(f"<p>{html.escape(clean_text(block.text))}</p>")
        elif isinstance(block, TableBlock):
            parts.append(_html_table(block))
        elif block.name in images:
            image = images[block.name]
            data = base64.b64encode(image.data).decode("ascii")
            alt = html.escape(clean_text(block.alt))
            parts.append(f'<p><img alt="{alt}" src="data:{image.media_type};base64,{data}"></p>')
    return parts


def _html_table(block: TableBlock) -> str:
    if not block.rows:
        return f"<p>{_NONE}</p>"
    columns = range(len(block.head))
    is_number = [_holds_numbers([row[column] for row in block.rows]) for column in columns]
    head = "".join(
        f"<th{' class=number' if is_number[column] else ''}>{html.escape(clean_text(cell))}</th>"
        for column, cell in enumerate(block.head)
    )
    rows = "\n".join(
        "<tr>" + "".join(_html_cell(cell, is_number[column]) for column, cell in enumerate(row)) + "</tr>"
        for row in block.rows
    )
    return f'<div class="table"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _holds_numbers(cells: Sequence[str]) -> bool:
    is_known = any(cell != _UNKNOWN for cell in cells)
    return is_known and all(_NUMBER.fullmatch(cell) for cell in cells)


def _html_cell(cell: str, is_number: bool) -> str:
    text = html.escape(clean_text(cell))
    return f'<td class="number">{text}</td>' if is_number else f"<td>{text}</td>"
