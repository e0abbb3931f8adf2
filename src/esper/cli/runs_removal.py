"""esper runs rm RUN [RUN ...] | esper runs prune [ROOT]: remove runs, or the checkpoints of finished ones.

Both print what goes and how much that frees, ask before they remove (--yes answers), and leave what is in
use. `prune` chooses among the runs of a folder: those in a state (finished and failed ones, unless --state
says otherwise), last changed --older-than DAYS ago, but for the newest (--keep-last N). With --checkpoints
results and events stay and only checkpoints of finished runs go; such a run can no longer be exported.

Example: esper runs prune --older-than 30 --keep-last 5 --dry-run
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from esper.cli.arguments import CommandParser, asks_for_help
from esper.cli.output import Table, report_note, write_json, write_table, write_text
from esper.leyline import ConfigError, ExitCode, JsonValue, RunDirectoryError
from esper.runtime.run_records import RUNS_ROOT
from esper.runtime.run_removal import (
    DEFAULT_STATES,
    REMOVABLE_STATES,
    Removal,
    RunChoice,
    check_removable,
    choose_runs,
    remove,
    total_bytes,
)


def remove_named(args: Sequence[str]) -> int:
    """Run `esper runs rm`.

    Raises:
        EsperError: If one of them is no run, is in use, or cannot be removed.
    """
    parser = CommandParser("runs rm", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    _add_own_flags(parser)
    if asks_for_help(args):
        write_text(parser.format_help())
        return int(ExitCode.OK)
    given = parser.parse_all(args)
    paths = dict.fromkeys(path.absolute() for path in given.runs)
    return _carry_out(tuple(map(check_removable, paths)), given)


def prune(args: Sequence[str]) -> int:
    """Run `esper runs prune`.

    Raises:
        EsperError: If an argument is wrong, or a run cannot be removed.
    """
    parser = CommandParser("runs prune", __doc__)
    parser.add_argument("root", type=Path, nargs="?", default=RUNS_ROOT, metavar="ROOT")
    parser.add_argument("--older-than", type=float, metavar="DAYS", dest="min_age_days")
    parser.add_argument("--keep-last", type=int, metavar="N", dest="num_kept")
    parser.add_argument(
        "--state",
        action="append",
        choices=REMOVABLE_STATES,
        dest="states",
        help=f"may be given several times; default: {' and '.join(DEFAULT_STATES)}",
    )
    parser.add_argument("--checkpoints", action="store_true", dest="has_checkpoints_only")
    _add_own_flags(parser)
    if asks_for_help(args):
        write_text(parser.format_help())
        return int(ExitCode.OK)
    given = parser.parse_all(args)
    choice = _read_choice(given)
    return _carry_out(choose_runs(given.root, choice, datetime.now(UTC)), given)


def _add_own_flags(parser: CommandParser) -> None:
    parser.add_argument("--yes", action="store_true", dest="is_confirmed", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", dest="is_dry_run", help="show what would go")
    parser.add_argument("--json", action="store_true", dest="is_json")


def _read_choice(given: argparse.Namespace) -> RunChoice:
    age, kept = given.min_age_days, given.num_kept
    if age is not None and not (math.isfinite(age) and 0 <= age <= 36_500):
        raise ConfigError(f"esper runs prune: --older-than {age}: expected days in [0, 36500]")
    if kept is not None and kept < 0:
        raise ConfigError(f"esper runs prune: --keep-last {kept}: must be >= 0")
    if given.has_checkpoints_only and given.states:
        raise ConfigError("esper runs prune: --checkpoints takes those of finished runs; leave out --state")
    if age is None and kept is None and not given.states and not given.has_checkpoints_only:
        raise ConfigError(
            "esper runs prune: say which runs go: --older-than DAYS, --keep-last N, --state S, --checkpoints"
        )
    return RunChoice(
        states=tuple(given.states or DEFAULT_STATES),
        min_age_days=age or 0.0,
        num_kept=kept or 0,
        has_checkpoints_only=given.has_checkpoints_only,
    )


def _carry_out(removals: Sequence[Removal], given: argparse.Namespace) -> int:
    """Show, ask, remove; what cannot be removed does not keep the others."""
    if given.is_dry_run or not removals:
        _show(removals, is_json=given.is_json, is_removed=False)
        if given.is_dry_run:
            report_note(f"nothing was removed; without --dry-run {_amount(removals)} would go")
        return int(ExitCode.OK)
    if not given.is_confirmed:
        _show_to_stderr(removals)
        if not _is_confirmed(removals):
            report_note("nothing was removed")
            return int(ExitCode.OK)
    removed: list[Removal] = []
    refusals: list[str] = []
    for removal in removals:
        try:
            remove(removal)
            removed.append(removal)
        except RunDirectoryError as error:
            refusals.append(str(error))
    _show(removed, is_json=given.is_json, is_removed=True)
    report_note(f"removed {_amount(removed)}")
    if refusals:
        raise RunDirectoryError("\n".join(refusals))
    return int(ExitCode.OK)


def _is_confirmed(removals: Sequence[Removal]) -> bool:
    """Ask on the terminal.

    Raises:
        ConfigError: If there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"esper runs: nothing was removed; to remove {_amount(removals)}, give --yes")
    sys.stderr.write(f"remove {_amount(removals)}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show_to_stderr(removals: Sequence[Removal]) -> None:
    for removal in removals:
        report_note(f"{removal.path}  {removal.state}  {_megabytes(removal.num_bytes)}")


def _show(removals: Sequence[Removal], *, is_json: bool, is_removed: bool) -> None:
    if is_json:
        rows: list[JsonValue] = [
            {
                "path": str(removal.path),
                "state": removal.state,
                "num_bytes": removal.num_bytes,
                "is_removed": is_removed,
            }
            for removal in removals
        ]
        write_json(rows)
        return
    write_table(
        Table(
            title="Removed" if is_removed else "To remove",
            columns=("folder", "state", "size"),
            rows=tuple((str(r.path), r.state, _megabytes(r.num_bytes)) for r in removals),
            numbers=frozenset({"size"}),
        )
    )


def _amount(removals: Sequence[Removal]) -> str:
    num = len(removals)
    return f"{num} folder{'' if num == 1 else 's'}, {_megabytes(total_bytes(removals))}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
