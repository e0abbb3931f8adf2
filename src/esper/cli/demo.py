"""esper demo [--run-dir D] [--json]: grow a small network, start to end.

Uses the digits that come with the package, works offline, takes well under a minute, and shows what each seed
brought, the same host that never grew, and the exported model.

Example: esper demo --run-dir runs/demo
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import report_note, write_json, write_tables, write_text
from esper.cli.result_view import render_networks, render_slots
from esper.leyline import ExitCode
from esper.runtime.demo import run_demo


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong or the run fails.
    """
    parser = CommandParser("demo", __doc__)
    parser.add_argument(
        "--run-dir", type=Path, metavar="D", help="where the run is written; default: a new one"
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print the summary as JSON")
    given = parser.parse_all(args)
    summary = run_demo(given.run_dir, say=report_note)
    if given.is_json:
        write_json(summary.to_json())
    else:
        networks = {"grown": summary.grown, "never grew": summary.never}
        write_tables((render_slots(summary.grown), render_networks(networks)))
        write_text(f"\n{summary.export.text}\nrun directory: {summary.grown.run_dir}")
    return int(ExitCode.OK)
