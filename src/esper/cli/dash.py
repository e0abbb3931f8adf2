"""esper dash [RUNS] [--port N] [--host H] [--no-open] [--export FILE.html]: runs as a page in a browser.

Shows the runs below RUNS (default: runs), or the one run that RUNS is, while they go on and afterwards; it
only reads their files. It prints one line: the address of the page with a token that lets you in. The page
can be reached from this machine only; through a tunnel (ssh -L 8521:127.0.0.1:8521 MACHINE) it can be read
from another one. --host H listens elsewhere. --export FILE.html writes everything into one page that needs
no server, and ends. Ctrl-C ends.

Example: esper dash runs
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.dashboard.export import export_page
from esper.cli.dashboard.index import RunIndex
from esper.cli.output import report_note, write_text
from esper.leyline import ConfigError, ExitCode, RunDirectoryError
from esper.runtime.run_records import RUNS_ROOT

MAX_PORT = 65_535
_NEEDED = ("starlette", "uvicorn")


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, the extra is missing, or the address cannot be bound.
    """
    parser = CommandParser("dash", __doc__)
    parser.add_argument("root", type=Path, nargs="?", default=RUNS_ROOT, metavar="RUNS")
    parser.add_argument("--port", type=int, metavar="N", help="port; 0 = any free one")
    parser.add_argument("--host", metavar="H", help="address to listen at; default: this machine only")
    parser.add_argument("--no-open", action="store_true", dest="stays_closed", help="open no browser")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="write one page and end")
    given = parser.parse_all(args)
    if given.port is not None and not 0 <= given.port <= MAX_PORT:
        raise ConfigError(f"--port {given.port}: expected 0 to {MAX_PORT}")
    if not given.root.is_dir():
        if given.root != RUNS_ROOT:
            raise RunDirectoryError(f"{given.root} is not a folder; expected one that holds runs, or a run")
        report_note(f"{given.root} does not exist yet; runs are shown as soon as there are some")
    index = RunIndex(given.root)
    if given.export is not None:
        export_page(index, given.export)
        write_text(str(given.export))
        return int(ExitCode.OK)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"esper dash needs {' and '.join(missing)}: pip install 'esper-lite[dashboard]' "
            "(--export FILE.html works without)"
        )
    from esper.cli.dashboard.server import open_in_browser, serve  # noqa: PLC0415 - comes with the extra

    serve(index, given.host, given.port, None if given.stays_closed else open_in_browser)
    return int(ExitCode.OK)
