"""esper runs ls [ROOT] | show RUN | decisions RUN | rm RUN | prune [ROOT]: what was run, and what came of it.

`ls` lists the runs below a folder, oldest first; `show` sums one up from its files: its state, its metrics,
what grew in each slot and what that brought, and every step of each seed's life. Of a run that trained a
policy it shows the rounds: curves, operations, signs of trouble, and where the policy is. Works while the
run goes on. `decisions` tells why it did what it did. `rm` and `prune` remove runs, see
`esper runs rm --help`. All but those take --json.

Example: esper runs show runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from esper.cli.arguments import CommandParser, asks_for_help, split_verb
from esper.cli.output import Table, report_note, write_json, write_tables, write_text
from esper.cli.run_view import format_time, render_tables, view_to_json
from esper.cli.runs_decisions import show_decisions
from esper.cli.runs_removal import prune, remove_named
from esper.cli.training_view import (
    listed_to_json,
    render_training_list,
    render_training_tables,
    training_to_json,
)
from esper.leyline import EsperError, ExitCode, PolicyTrainingStarted
from esper.nissa import (
    BLOCKS,
    PLAIN_LEVELS,
    Record,
    TrainingSummary,
    compute_training_summary,
    event_files,
    is_training,
    read_first_event,
    read_run,
)
from esper.runtime.run_records import (
    CONFIG_NAME,
    POLICY_FOLDER_NAME,
    RESUMABLE_STATES,
    RUNS_ROOT,
    RunInfo,
    list_runs,
    read_run_info,
)

VERBS = ("ls", "show", "decisions", "rm", "prune")
_OWN_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = MappingProxyType(
    {"decisions": show_decisions, "rm": remove_named, "prune": prune}
)
_POLICY_FILE = "policy.json"
"""Written last into the folder of a policy; tamiyo's name for it, which would bring torch along."""
_PIPE_WIDTH = 120
"""Width where stdout is no terminal and COLUMNS is not set, in characters."""


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong or the run cannot be read.
    """
    if args and args[0] in _OWN_COMMANDS:
        return _OWN_COMMANDS[args[0]](args[1:])
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
    trainings = {info.path: _read_training(info) for info in infos if _trains_policy(info)}
    if given.is_json:
        write_json(
            [
                listed_to_json(info, trainings[info.path]) if info.path in trainings else info.to_json()
                for info in infos
            ]
        )
    else:
        write_tables(_render_lists(given.root, infos, trainings))
    for info in infos:
        if info.problem:
            report_note(f"{info.path.name}: {info.problem}")
    return int(ExitCode.OK)


def _render_lists(
    root: Path, infos: Sequence[RunInfo], trainings: Mapping[Path, TrainingSummary | None]
) -> tuple[Table, ...]:
    """Return the runs of hosts, and below them those that trained a policy; an empty table only for none."""
    hosts = [info for info in infos if info.path not in trainings]
    tables = []
    if hosts or not trainings:
        tables.append(_host_table(root, hosts))
    if trainings:
        shown = [(info, trainings[info.path]) for info in infos if info.path in trainings]
        tables.append(render_training_list(str(root), shown, width=_find_width()))
    return tuple(tables)


def _host_table(root: Path, infos: Sequence[RunInfo]) -> Table:
    return Table(
        title=f"Runs in {root}",
        columns=("run", "task", "policy", "seed", "state", "started (UTC)"),
        rows=tuple(
            (
                info.path.name,
                info.task,
                info.policy,
                str(info.seed),
                info.state or "?",
                format_time(info.started_at),
            )
            for info in infos
        ),
        empty="none; `esper demo` and `esper train` write runs" if root.exists() else "no such folder",
        numbers=frozenset({"seed"}),
    )


def _trains_policy(info: RunInfo) -> bool:
    """Whether a run says so itself; one that cannot be read does not, and is listed with its problem."""
    if info.problem:
        return False
    try:
        return isinstance(read_first_event(info.path), PolicyTrainingStarted)
    except OSError as error:
        report_note(f"{info.path.name}: its events cannot be read: {error.strerror}")
        return False


def _read_training(info: RunInfo) -> TrainingSummary | None:
    try:
        return compute_training_summary(read_run(info.path).records)
    except (EsperError, OSError) as error:
        report_note(f"{info.path.name}: {error}")
        return None


def _show(args: Sequence[str]) -> int:
    parser = CommandParser("runs show", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--json", action="store_true", dest="is_json")
    given = parser.parse_all(args)
    info = read_run_info(given.run)
    log = read_run(given.run) if event_files(given.run) else None
    records = () if log is None else log.records
    if is_training(records):
        _show_training(info, records, is_json=given.is_json)
    elif given.is_json:
        write_json(view_to_json(info, records))
    else:
        write_tables(render_tables(info, records))
        if info.state in RESUMABLE_STATES:
            report_note(f"go on: esper train --resume {given.run}")
    if log is not None and log.num_dropped:
        report_note(
            f"{log.num_dropped} samples were dropped to keep the event files within telemetry.max_events_mb"
        )
    for bad in () if log is None else log.bad_lines:
        report_note(f"{bad.file}:{bad.line}: {bad.problem}")
    return int(ExitCode.OK)


def _show_training(info: RunInfo, records: Sequence[Record], *, is_json: bool) -> None:
    summary = compute_training_summary(records)
    has_policy = (info.path / POLICY_FOLDER_NAME / _POLICY_FILE).is_file()
    if is_json:
        write_json(training_to_json(info, summary, has_policy=has_policy))
        return
    levels = BLOCKS if _can_show(BLOCKS) else PLAIN_LEVELS
    write_tables(
        render_training_tables(info, summary, has_policy=has_policy, width=_find_width(), levels=levels)
    )
    if has_policy:
        report_note(
            f"compare it on fresh hosts: esper evaluate --policy {info.path} heuristic "
            f"--config {info.path / CONFIG_NAME} --seeds 0-9"
        )
    if info.state in RESUMABLE_STATES:
        report_note(f"go on: esper train --resume {info.path}")


def _find_width() -> int:
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns


def _can_show(text: str) -> bool:
    """Whether stdout has these characters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
