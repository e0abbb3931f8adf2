"""python scripts/site_requests.py SITE: fail if a built page would load anything from another machine."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADING = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data", "link": "href", "form": "action",
}  # fmt: skip
NOT_LOADED = frozenset({"canonical", "alternate", "author", "license", "next", "prev", "help"})
OUTSIDE = re.compile(r"^(https?:)?//")
CSS_URL = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")


class _Loads(HTMLParser):
    """Collects addresses that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(LOADING.get(tag, "")) or ""
        if tag == "link" and set((values.get("rel") or "").split()) & NOT_LOADED:
            return
        if OUTSIDE.match(address):
            self.found.append(address)


def find_requests(site: Path) -> list[str]:
    """Return "file: address" for everything that a page or style sheet of the site loads from outside."""
    found = []
    for page in sorted(site.rglob("*.html")):
        loads = _Loads()
        text = page.read_text(encoding="utf-8")
        loads.feed(text)
        found += [
            f"{page.relative_to(site)}: {address}" for address in (*loads.found, *CSS_URL.findall(text))
        ]
    for sheet in sorted(site.rglob("*.css")):
        found += [
            f"{sheet.relative_to(site)}: {url}" for url in CSS_URL.findall(sheet.read_text(encoding="utf-8"))
        ]
    return found


if __name__ == "__main__":
    problems = find_requests(Path(sys.argv[1]))
    print("\n".join(problems) or "no page loads anything from outside")
    raise SystemExit(1 if problems else 0)
