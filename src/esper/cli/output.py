"""What commands print: data on stdout, everything else on stderr; tables for people, JSON for programs.

Text from files and names is cleaned before it reaches a terminal. Knows no command.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from esper.leyline import JsonValue
from esper.nissa import clean_text

_GAP = "  "
_PIPE_WIDTH = 120
"""Width where stdout is no terminal and COLUMNS is not set, in characters."""
_MOST_CHARACTERS = 1500
"""Of one line of an error: about the longest list of names that a message of ours holds."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a title.

    Example:
        Table(title="Runs", columns=("name", "state"), rows=(("digits-heuristic-0", "finished"),))
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = "none"
    """Shown in place of the rows where there are none."""
    numbers: frozenset[str] = frozenset()
    """Columns that are aligned to the right."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """Text of a cell -> its colour on a terminal that shows colours (not where NO_COLOR is set)."""
    is_folded: bool = False
    """On a narrow terminal a long word goes on in the next line instead of being cut."""


def write_text(text: str) -> None:
    """Write text to stdout as it is, with one line end."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def write_json(value: JsonValue) -> None:
    """Write one JSON document to stdout; numbers that are not finite become null."""
    sys.stdout.write(json.dumps(_to_finite(value), indent=2, allow_nan=False, ensure_ascii=True) + "\n")


def write_table(table: Table) -> None:
    """Write a table to stdout: with frames on a terminal, else as aligned plain text."""
    if sys.stdout.isatty():
        _write_rich(table)
    else:
        sys.stdout.write(render_plain(table))


def write_tables(tables: Iterable[Table]) -> None:
    """Write tables below each other, an empty line between them."""
    for index, table in enumerate(tables):
        if index:
            sys.stdout.write("\n")
        write_table(table)


def find_width() -> int:
    """Return the width of the terminal, or of a line where stdout is none, in characters."""
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns


def can_show(text: str) -> bool:
    """Whether stdout has these characters."""
    return make_encodable(text) == text


def make_encodable(text: str) -> str:
    """Return text with what stdout cannot hold as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def report_note(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(clean_text(text) + "\n")


def report_error(text: str) -> None:
    """Write an error to stderr; lines after its first are indented, so that none looks like another error.

    A line may repeat what a user wrote, of any length: its middle is left out then, and what was wrong, which
    stands before it, and what would be right, which stands behind it, stay.
    """
    lines = [_cut(clean_text(line).rstrip()) for line in text.splitlines()] or [""]
    sys.stderr.write("\n  ".join(("esper: error: " + lines[0], *lines[1:])) + "\n")


def _cut(line: str) -> str:
    if len(line) <= _MOST_CHARACTERS:
        return line
    kept = (_MOST_CHARACTERS - 100) // 2
    return f"{line[:kept]} [... {len(line) - 2 * kept:,} characters ...] {line[-kept:]}"


def render_plain(table: Table) -> str:
    """Return a table as aligned text, one line per row, the title first."""
    lines = [table.title]
    if table.rows:
        cells = [tuple(clean_text(cell) for cell in row) for row in (table.columns, *table.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(table.columns))]
        is_number = [name in table.numbers for name in table.columns]
        lines += [
            _GAP.join(
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(row, widths, is_number, strict=True)
            ).rstrip()
            for row in cells
        ]
    else:
        lines.append(table.empty)
    return "\n".join(lines) + "\n"


def _to_finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _to_finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_finite(item) for item in value]
    return value


def _write_rich(table: Table) -> None:
    from rich import box, console, text  # noqa: PLC0415 - only on a terminal
    from rich import table as rich_table  # noqa: PLC0415

    shown = rich_table.Table(title=table.title, title_justify="left", box=box.SIMPLE)
    for column in table.columns:
        shown.add_column(
            column,
            justify="right" if column in table.numbers else "left",
            overflow="fold" if table.is_folded else "ellipsis",
        )
    for row in table.rows:
        shown.add_row(*(text.Text(clean_text(cell), style=table.colours.get(cell, "")) for cell in row))
    screen = console.Console(file=sys.stdout, highlight=False)
    screen.print(shown if table.rows else f"{table.title}: {table.empty}")
