"""python scripts/config_reference.py [--check]: docs/configuration.md from every `*Config` dataclass.

Read from the source text, so that types, defaults and the sentences under the fields appear as written.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from generated import NOTE, settle
from source_tree import REPO, SRC, ConfigClass, read_configs, read_sources

PAGE = REPO / "docs" / "configuration.md"
INTRO = """# Configuration

Every setting of the system, one table per component. The text beside a field gives its unit, its range
and why its default is what it is. Fractions are in [0, 1]; ages and lengths count decision intervals
(epochs by default) unless their name says otherwise. A value outside its range is refused when the
configuration is built, with the allowed range and a remedy in the message.

On the command line a field is a dotted flag, in a TOML file a key of the table with the same path. A
flag wins over the file, the file over the preset. `esper config show` prints the result with the origin
of each value.
"""


def build_page(root: Path) -> str:
    """Return the page for the package under `root`."""
    parts = [NOTE, INTRO]
    room = ""
    for config in read_configs(read_sources(root)):
        if config.file.room != room:
            room = config.file.room
            parts.append(f"## {room}\n")
        parts.append(_section(config))
    return "\n".join(parts)


def _section(config: ConfigClass) -> str:
    rows = [
        f"| `{item.name}` | {_code(item.annotation)} | {_default(item.default)} | {_cell(item.docstring)} |"
        for item in config.fields
    ]
    module = "esper." + config.file.name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return "\n".join(
        [
            f"### {config.name}",
            "",
            f"{' '.join(config.docstring.split())} Defined in `{module}`.",
            "",
            "| field | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cell(text: str) -> str:
    """Escape what would end a table cell early."""
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    """Return a cell of code; readers of Markdown differ about a pipe between back ticks."""
    return f"<code>{escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _default(text: str | None) -> str:
    return "required" if text is None else _code(text)


if __name__ == "__main__":
    raise SystemExit(settle(PAGE, build_page(SRC), is_check="--check" in sys.argv[1:]))
