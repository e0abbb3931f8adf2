"""esper runs ls [ROOT] [--json] | esper runs show RUN [--json]: what was run, and what came of it.

`ls` lists the runs below a folder, oldest first; `show` sums one up from its files: its state, its metrics,
what grew in each slot and what that brought, and every step of each seed's life. Works while the run goes on.

Example: esper runs show runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser, asks_for_help, split_verb
from esper.cli.output import Table, report_note, write_json, write_table, write_tables, write_text
from esper.cli.run_view import format_time, render_tables, view_to_json
from esper.leyline import ExitCode
from esper.nissa import event_files, read_run
from esper.runtime.run_records import RESUMABLE_STATES, RUNS_ROOT, list_runs, read_run_info

VERBS = ("ls", "show")


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong or the run cannot be read.
    """
    if asks_for_help(args):
        parser = CommandParser("runs", __doc__)
        write_text(parser.format_help())
        return int(ExitCode.OK)
    verb, rest = split_verb("runs", args, VERBS)
    return _list(rest) if verb == "ls" else _show(rest)


def _list(args: Sequence[str]) -> int:
    parser = CommandParser("runs ls", __doc__)
    parser.add_argument("root", type=Path, nargs="?", default=RUNS_ROOT, metavar="ROOT")
    parser.add_argument("--json", action="store_true", dest="is_json")
    given = parser.parse_all(args)
    infos = list_runs(given.root)
    if given.is_json:
        write_json([info.to_json() for info in infos])
    else:
        rows = tuple(
            (
                info.path.name,
                info.task,
                info.policy,
                str(info.seed),
                info.state or "?",
                format_time(info.started_at),
            )
            for info in infos
        )
        columns = ("run", "task", "policy", "seed", "state", "started (UTC)")
        empty = "none; `esper demo` and `esper train` write runs" if given.root.exists() else "no such folder"
        write_table(
            Table(
                title=f"Runs in {given.root}",
                columns=columns,
                rows=rows,
                empty=empty,
                numbers=frozenset({"seed"}),
            )
        )
    for info in infos:
        if info.problem:
            report_note(f"{info.path.name}: {info.problem}")
    return int(ExitCode.OK)


def _show(args: Sequence[str]) -> int:
    parser = CommandParser("runs show", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--json", action="store_true", dest="is_json")
    given = parser.parse_all(args)
    info = read_run_info(given.run)
    log = read_run(given.run) if event_files(given.run) else None
    records = () if log is None else log.records
    if given.is_json:
        write_json(view_to_json(info, records))
    else:
        write_tables(render_tables(info, records))
        if info.state in RESUMABLE_STATES:
            report_note(f"go on: esper train --resume {given.run}")
    for bad in () if log is None else log.bad_lines:
        report_note(f"{bad.file}:{bad.line}: {bad.problem}")
    return int(ExitCode.OK)
