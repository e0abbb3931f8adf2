"""esper data list|check [NAME] [--data-dir D] [--json]: the data sets and their files.

`list` shows every data set, where it lies, its licence and its credit line; `check` verifies the files of one
set, or of every set that is there, against their checksums. Nothing is downloaded. Exit code 3 if a file is
damaged.

Example: esper data check fashion_mnist --data-dir ~/data
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser, asks_for_help, split_verb
from esper.cli.output import Table, report_note, write_json, write_table, write_tables, write_text
from esper.data import DatasetStatus, check, list_datasets
from esper.leyline import ExitCode

VERBS = ("list", "check")
_MISSING_HINT = "missing: `esper data check {}` says where it was looked for and how to get it"


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong or a set is not found.
    """
    if asks_for_help(args):
        write_text(_build_parser("data").format_help())
        return int(ExitCode.OK)
    verb, rest = split_verb("data", args, VERBS)
    return _list(rest) if verb == "list" else _check(rest)


def _build_parser(command: str) -> CommandParser:
    parser = CommandParser(command, __doc__)
    if command != "data list":
        parser.add_argument(
            "name", nargs="?", metavar="NAME", help="check: one set; default: all that are there"
        )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder with one sub-folder per set")
    parser.add_argument("--json", action="store_true", dest="is_json", help="print JSON")
    return parser


def _list(args: Sequence[str]) -> int:
    given = _build_parser("data list").parse_all(args)
    sets = list_datasets(given.data_dir)
    if given.is_json:
        write_json(
            [
                {
                    "name": item.name,
                    "state": item.state,
                    "path": None if item.path is None else str(item.path),
                    "licence": item.licence,
                    "credit": item.credit,
                }
                for item in sets
            ]
        )
    else:
        write_tables(_render_sets(sets))
        missing = [item.name for item in sets if item.state == "missing"]
        if missing:
            report_note(f"{_MISSING_HINT.format(missing[0])} ({', '.join(missing)})")
    return int(ExitCode.OK)


def _render_sets(sets: Sequence[DatasetStatus]) -> tuple[Table, ...]:
    """Return what is there, and apart from it the long lines: licences and credits."""
    return (
        Table(
            title="Data sets",
            columns=("name", "state", "path"),
            rows=tuple((item.name, item.state, str(item.path or "-")) for item in sets),
            colours={"missing": "yellow"},
        ),
        Table(
            title="Licences",
            columns=("name", "licence"),
            rows=tuple((item.name, item.licence) for item in sets),
        ),
        Table(
            title="Credits", columns=("name", "credit"), rows=tuple((item.name, item.credit) for item in sets)
        ),
    )


def _check(args: Sequence[str]) -> int:
    given = _build_parser("data check").parse_all(args)
    names = [given.name] if given.name is not None else _present(given.data_dir)
    findings = [(name, finding) for name in names for finding in check(name, given.data_dir)]
    if given.is_json:
        write_json(
            [
                {"name": name, "file": item.file, "is_ok": item.is_ok, "message": item.message}
                for name, item in findings
            ]
        )
    else:
        rows = tuple(
            (name, "ok" if item.is_ok else "DAMAGED", item.file, item.message) for name, item in findings
        )
        write_table(
            Table(
                title="Files",
                columns=("set", "state", "file", "finding"),
                rows=rows,
                empty="none; generated sets have no files",
                colours={"DAMAGED": "red"},
            )
        )
    num_damaged = sum(not item.is_ok for _, item in findings)
    if num_damaged:
        report_note(f"{num_damaged} of {len(findings)} files are missing or damaged")
    return int(ExitCode.DATA if num_damaged else ExitCode.OK)


def _present(data_dir: Path | None) -> list[str]:
    return [item.name for item in list_datasets(data_dir) if item.state in ("embedded", "found")]
