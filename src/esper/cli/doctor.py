"""esper doctor [--run-dir D] [--data-dir D] [--json]: is this machine ready?

Checks versions, devices, data sets, free disk and write access; uses no network and leaves nothing behind.
Exit code 2 if something will make a run fail.

Example: esper doctor --data-dir ~/data
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import Table, report_note, write_json, write_table
from esper.leyline import ExitCode
from esper.runtime.doctor import collect_findings
from esper.runtime.run_records import RUNS_ROOT


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong.
    """
    parser = CommandParser("doctor", __doc__)
    parser.add_argument(
        "--run-dir", type=Path, default=RUNS_ROOT, metavar="D", help=f"where runs go; default: {RUNS_ROOT}"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder with one sub-folder per data set")
    parser.add_argument("--json", action="store_true", dest="is_json", help="print JSON")
    given = parser.parse_all(args)
    findings = collect_findings(given.run_dir, given.data_dir)
    if given.is_json:
        write_json([finding.to_json() for finding in findings])
    else:
        rows = tuple((item.topic, item.name, item.state, item.detail) for item in findings)
        columns = ("topic", "name", "state", "detail")
        colours = {"problem": "red", "note": "yellow"}
        write_table(Table(title="This machine", columns=columns, rows=rows, colours=colours))
    problems = [finding.name for finding in findings if finding.state == "problem"]
    report_note(f"a run would fail: see {', '.join(problems)}" if problems else "ready to run")
    return int(ExitCode.USAGE if problems else ExitCode.OK)
