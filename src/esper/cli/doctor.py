"""esper doctor [--run-dir D] [--data-dir D] [--json]: is this machine ready?

Checks versions, devices, data sets, free disk and write access; uses no network and leaves nothing behind.
Exit code 2 if something will make a run fail.

Example: esper doctor --data-dir ~/data
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import Table, write_json, write_table
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
        write_table(Table(title="This machine", columns=("topic", "name", "state", "detail"), rows=rows))
    has_problem = any(finding.state == "problem" for finding in findings)
    return int(ExitCode.USAGE if has_problem else ExitCode.OK)
