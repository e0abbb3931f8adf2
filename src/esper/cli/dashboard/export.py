"""One page that needs no server: scripts, styles and the answers of every view in a single file.

The page allows exactly the script and the style that stand in it, by their hashes, and no connection at all.
The modules of the page are joined into one script by simple rules, which `join_modules` checks.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from esper.cli.dashboard.index import Entry, RunIndex
from esper.cli.dashboard.lists import MAX_ROWS, ListQuery
from esper.cli.dashboard.plain import dump
from esper.cli.dashboard.views import Views
from esper.leyline import ConfigError, JsonValue

MAX_EXPORTED_RUNS = 24
"""Newest ones."""
MAX_EXPORTED_ROWS = 5_000
"""Newest events, and newest decisions, of each run."""
MAX_EXPORTED_HOSTS = 8
"""Host runs of each run that are drawn."""
ENTRY_MODULE = "main.js"
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./(?P<name>[a-z_]+\.js)\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |const |class )", re.MULTILINE)
_LEFT_OVER = re.compile(r"^\s*(?:import|export)\b", re.MULTILINE)
_NAME = re.compile(r"^(?:async )?(?:function\*?|const|let|class) (?P<name>\w+)", re.MULTILINE)


def export_page(index: RunIndex, path: Path) -> None:
    """Write the runs of an index into one page.

    Args:
        index: The runs; the newest `MAX_EXPORTED_RUNS` are written.
        path: A file that does not exist.

    Raises:
        ConfigError: If there is such a file, or it cannot be written.
        RunDirectoryError: If the runs cannot be listed.
    """
    refusal = f"--export {path}: it exists already; name a new file"
    if path.is_symlink() or path.exists():
        raise ConfigError(refusal)
    page = build_page(collect(Views(index)))
    try:
        with path.open("xb") as file:
            file.write(page)
    except FileExistsError as error:
        raise ConfigError(refusal) from error
    except OSError as error:
        raise ConfigError(f"--export {path}: it cannot be written: {error.strerror or error}") from error


def collect(views: Views) -> dict[str, JsonValue]:
    """Return the answers of every view, by the address under which a browser asks the server for them."""
    entries = list(read_all(views.index).values())[-MAX_EXPORTED_RUNS:]
    chosen = {entry.id for entry in entries}
    overview = views.overview()
    rows = overview["runs"]
    assert isinstance(rows, list)
    overview["runs"] = [row for row in rows if isinstance(row, dict) and row["id"] in chosen]
    answers: dict[str, JsonValue] = {"/api/runs": overview, "/api/compare": views.compare(sorted(chosen))}
    for entry in entries:
        if not entry.problem:
            answers |= _collect_run(views, entry)
    return answers


def read_all(index: RunIndex) -> Mapping[str, Entry]:
    """Return the runs of an index with their files read to the end."""
    entries = index.entries()
    for entry in entries.values():
        while entry.digest.is_behind and not entry.problem:
            entry.digest.refresh(1.0)
    return entries


def _collect_run(views: Views, entry: Entry) -> dict[str, JsonValue]:
    store = views.read(entry)
    while store.is_behind and not entry.problem:
        store = views.read(entry)
    base = f"/api/runs/{entry.id}"
    answers: dict[str, JsonValue] = {base: views.head(entry)}
    hosts = [held.record.event.instance for held in store.of_kind("EpochCompleted")]
    for instance in list(dict.fromkeys([0, *hosts]))[:MAX_EXPORTED_HOSTS]:
        answers[f"{base}/growth?instance={instance}"] = views.growth(entry, instance)
    if store.of_kind("PolicyTrainingStarted"):
        answers[f"{base}/training"] = views.training(entry)
    events = _newest_rows(len(store.all()))
    decisions = _newest_rows(len(store.of_kind("DecisionMade")))
    answers[f"{base}/events"] = [row for query in events for row in _rows(views.events(entry, query))]
    listed = [row for query in decisions for row in _rows(views.decisions(entry, query))]
    answers[f"{base}/decisions"] = listed
    for row in listed:
        if isinstance(row, dict) and isinstance(n := row["n"], int):
            answers[f"{base}/decision?n={n}"] = views.decision(entry, n)
    return answers


def _newest_rows(total: int) -> list[ListQuery]:
    first = max(0, total - MAX_EXPORTED_ROWS)
    return [ListQuery(start=start, count=MAX_ROWS) for start in range(first, total, MAX_ROWS)]


def _rows(page: JsonValue) -> list[JsonValue]:
    rows = page["rows"] if isinstance(page, dict) else []
    return list(rows) if isinstance(rows, list) else []


def build_page(answers: Mapping[str, JsonValue]) -> bytes:
    """Return a page of its own that holds these answers."""
    root = files("esper.cli.dashboard") / "static"
    vendor = root / "vendor"
    modules = {item.name: item.read_text("utf-8") for item in root.iterdir() if item.name.endswith(".js")}
    script = (vendor / "uPlot.iife.min.js").read_text("utf-8") + "\n" + join_modules(modules, ENTRY_MODULE)
    style = (vendor / "uPlot.min.css").read_text("utf-8") + "\n" + (root / "style.css").read_text("utf-8")
    licence = (vendor / "uPlot.LICENSE.txt").read_text("utf-8")
    script = f"/*\n{licence}*/\n{script}".replace("</", "<\\/")
    data = dump(dict(answers)).decode("ascii").replace("<", "\\u003c").replace(">", "\\u003e")
    policy = (
        f"default-src 'none'; script-src '{hash_of(script)}'; style-src '{hash_of(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head, _, rest = (root / "index.html").read_text("utf-8").partition("<!-- assets -->")
    _, _, body = rest.partition("<!-- /assets -->")
    start, end, tail = body.rpartition("</body>")
    own = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    held = f'<script type="application/json" id="answers">{data}</script>\n<script>{script}</script>\n'
    return f"{head}{own}{start}{held}{end}{tail}".encode()


def hash_of(text: str) -> str:
    """Return the source expression by which a policy allows an inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def join_modules(modules: Mapping[str, str], entry: str) -> str:
    """Return one script that does what the modules do: each behind those that it imports, without its marks.

    Args:
        modules: File name -> text. Imports name what they take, on lines of their own; exports stand before
            declarations; no two modules declare the same name.
        entry: The module that starts the page.

    Raises:
        ValueError: If a module is written in another way.
    """
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"{' -> '.join((*above, name))}: modules import each other")
        if name not in order:
            for found in _IMPORT.finditer(modules[name]):
                visit(found["name"], (*above, name))
            order.append(name)

    visit(entry, ())
    owner: dict[str, str] = {}
    parts = []
    for name in order:
        text = _EXPORT.sub("", _IMPORT.sub("", modules[name]))
        if left := _LEFT_OVER.search(text):
            raise ValueError(f"{name}: {left.group().strip()!r} is written in a way that cannot be joined")
        for found in _NAME.finditer(text):
            if owner.setdefault(found["name"], name) != name:
                raise ValueError(f"{found['name']} is declared in {owner[found['name']]} and in {name}")
        parts.append(text)
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
