"""esper report RUN [RUN ...] [--out FOLDER] [--format md|html|both] [--json]: a run as a page with figures.

Of one run: timeline and life of every slot, what the metric cost, contributions with errors, Shapley values
if `esper coalitions RUN` has measured them, decisions, blueprints; of a training its rounds. Of several runs:
by policy and by seed, with mean and spread, and the Pareto fronts. Works while a run goes on. The page is one
file that loads nothing; Markdown has its figures beside it. With --json the data goes to stdout, and files
are written only where --out says so.

Example: esper report runs/digits-heuristic-0-20260101-120000
Example: esper report runs/a runs/b --out comparison
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from esper.cli.arguments import CommandParser
from esper.cli.output import report_note, write_json, write_text
from esper.leyline import ConfigError, ExitCode
from esper.nissa import ReportFormat, write_document
from esper.runtime.run_report import REPORT_FOLDER, made_by, open_comparison, open_run

_FORMATS: Mapping[str, tuple[ReportFormat, ...]] = MappingProxyType(
    {"md": ("md",), "html": ("html",), "both": ("md", "html")}
)


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, a run cannot be read, or the folder cannot be written.
    """
    parser = CommandParser("report", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directories of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"where to write; default: {REPORT_FOLDER} inside the run; several runs need it",
    )
    parser.add_argument("--format", choices=tuple(_FORMATS), default="both", help="default: both")
    parser.add_argument("--figures", choices=("svg", "png"), default="svg", help="default: svg")
    parser.add_argument("--json", action="store_true", dest="is_json", help="print the data as JSON")
    given = parser.parse_all(args)
    if len(given.runs) > 1:
        if given.out is None and not given.is_json:
            raise ConfigError("a report of several runs belongs to none of them: say where with --out FOLDER")
        data, document = open_comparison(given.runs)
        folder = given.out
    else:
        opened = open_run(given.runs[0])
        data, document = opened.to_dict(), opened.document
        folder = given.out or (None if given.is_json else opened.path / REPORT_FOLDER)
        for bad in opened.log.bad_lines:
            report_note(f"{bad.file}:{bad.line}: {bad.problem}")
    files: tuple[Path, ...] = ()
    if folder is not None:
        formats = _FORMATS[given.format]
        files = write_document(document, folder, formats=formats, figures=given.figures, made_by=made_by())
    if given.is_json:
        write_json({**data, "files": [str(file) for file in files]})
    else:
        write_text("\n".join(map(str, files)))
    return int(ExitCode.OK)
