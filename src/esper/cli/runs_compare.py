"""esper runs compare RUN RUN [RUN ...] [--json]: what runs were told, what came of it, how they grew.

Shown are the settings that differ (versions of libraries included), the figures of every run, mean and spread
of those that differ by their seed only, and the life of every slot on one axis of epochs; of trainings of
policies, the returns. Figures of a training are means of its last rounds. Runs may be unfinished; in a spread
only finished ones count. Nothing is written.

Example: esper runs compare runs/digits-heuristic-0-20260101-120000 runs/digits-never-0-20260101-120500
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from esper.cli.arguments import CommandParser
from esper.cli.output import Table, can_show, find_width, report_note, write_json, write_tables
from esper.cli.strips import draw_strip, name_letters
from esper.leyline import ConfigError, ExitCode, JsonValue
from esper.nissa import (
    BLOCKS,
    PLAIN_LEVELS,
    ComparedRun,
    RunComparison,
    RunEntry,
    SeedGroup,
    Spread,
    compare_runs,
    draw_sparkline,
    event_files,
    format_count,
    format_flops,
    format_metric,
    format_number,
    format_seconds,
    read_run,
)
from esper.runtime.run_records import read_run_info, read_run_settings

_NONE = "-"
_COUNT_NAMES = (
    "total_params",
    "num_fossilized",
    "num_culled",
    "num_env_steps",
    "num_parameters",
    "num_failures",
)
_FORMATS: Mapping[str, Callable[[float], str]] = MappingProxyType(
    {
        **dict.fromkeys(_COUNT_NAMES, lambda value: format_count(round(value))),
        "total_flops": lambda value: format_flops(round(value)),
        "seconds": format_seconds,
    }
)
"""Figure -> how a person reads it; the others are metrics."""


def compare_named(args: Sequence[str]) -> int:
    """Run `esper runs compare`.

    Raises:
        EsperError: If an argument is wrong or a run cannot be read.
    """
    parser = CommandParser("runs compare", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--json", action="store_true", dest="is_json")
    given = parser.parse_all(args)
    entries = read_entries(given.runs)
    comparison = compare_runs(entries)
    if given.is_json:
        write_json(comparison.to_json())
    else:
        levels = BLOCKS if can_show(BLOCKS) else PLAIN_LEVELS
        write_tables(render_comparison(comparison, width=find_width(), levels=levels))
    return int(ExitCode.OK)


def read_entries(paths: Sequence[Path]) -> tuple[RunEntry, ...]:
    """Read the runs of some directories.

    Raises:
        ConfigError: If there are fewer than two, or one is named twice.
        EsperError: If one cannot be read.
    """
    if len(paths) < 2:
        raise ConfigError(f"esper runs compare: {paths[0]} alone; name at least two runs")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("esper runs compare: a run is named twice; name each run once")
    names = [path.absolute().name for path in paths]
    entries = []
    for path, name in zip(paths, names, strict=True):
        info = read_run_info(path)
        log = read_run(path) if event_files(path) else None
        for bad in () if log is None else log.bad_lines:
            report_note(f"{path}: {bad.file}:{bad.line}: {bad.problem}")
        entries.append(
            RunEntry(
                name=name if names.count(name) == 1 else str(path),
                settings=read_run_settings(path),
                records=() if log is None else log.records,
                state=info.state,
            )
        )
    return tuple(entries)


def render_comparison(comparison: RunComparison, *, width: int, levels: str = BLOCKS) -> tuple[Table, ...]:
    """Return the tables of a comparison: settings, figures, spreads, growth, returns; the last three if any.

    Args:
        comparison: What to show.
        width: Of the terminal, in characters.
        levels: Characters of a curve, from low to high.
    """
    hosts = [run for run in comparison.runs if run.kind == "host"]
    trainings = [run for run in comparison.runs if run.kind == "training"]
    tables = [_setting_table(comparison)]
    tables += [
        _figure_table(title, runs) for title, runs in (("Runs", hosts), ("Trainings", trainings)) if runs
    ]
    tables += [_spread_table(group) for group in comparison.groups]
    if any(run.strips for run in hosts):
        tables.append(_growth_table(hosts, comparison.num_epochs, width=width))
    if trainings:
        tables.append(_return_table(trainings, width=width, levels=levels))
    return tuple(tables)


def _setting_table(comparison: RunComparison) -> Table:
    return Table(
        title="Settings that differ",
        columns=("setting", *(run.name for run in comparison.runs)),
        rows=tuple((row.key, *map(_show_setting, row.values)) for row in comparison.differences),
        is_folded=True,
    )


def _show_setting(value: JsonValue) -> str:
    if value is None:
        return _NONE
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _figure_table(title: str, runs: Sequence[ComparedRun]) -> Table:
    names = dict.fromkeys(name for run in runs for name in run.figures)
    word = "rounds" if runs[0].kind == "training" else "epochs"
    rows = [
        ("state", *(run.state or run.status for run in runs)),
        (word, *(f"{run.num_done}/{run.num_planned}" for run in runs)),
        ("seed", *(str(run.seed) for run in runs)),
    ]
    for name in names:
        cells = (_NONE if name not in run.figures else _show_figure(name, run.figures[name]) for run in runs)
        rows.append((_say_figure(name), *cells))
    columns = ("figure", *(run.name for run in runs))
    return Table(
        title=title, columns=columns, rows=tuple(rows), numbers=frozenset(columns[1:]), is_folded=True
    )


def _spread_table(group: SeedGroup) -> Table:
    seeds = ", ".join(map(str, group.seeds))
    left_out = f"; {group.num_unfinished} not finished, left out" if group.num_unfinished else ""
    rows = tuple(
        (
            _say_figure(name),
            _show_figure(name, spread.mean),
            _show_deviation(name, spread),
            _show_figure(name, spread.low),
            _show_figure(name, spread.high),
            str(spread.num_runs),
        )
        for name, spread in group.spreads.items()
    )
    columns = ("figure", "mean", "standard deviation", "lowest", "highest", "runs")
    return Table(
        title=f"Over seeds {seeds} of {group.names[0]} and {len(group.names) - 1} more like it{left_out}",
        columns=columns,
        rows=rows,
        empty="none has finished yet",
        numbers=frozenset(columns[1:]),
    )


def _growth_table(runs: Sequence[ComparedRun], num_epochs: int, *, width: int) -> Table:
    slots = dict.fromkeys(slot for run in runs for slot in run.strips)
    widest = [max(map(len, slots), default=0), max(len(run.name) for run in runs)]
    room = max(10, width - sum(widest) - 12)
    rows = [
        (slot, run.name, draw_strip(run.strips[slot], num_epochs=num_epochs, width=room))
        for slot in slots
        for run in runs
        if slot in run.strips
    ]
    return Table(
        title=f"Growth: {name_letters(row[2] for row in rows)}",
        columns=("slot", "run", f"epochs 0 to {num_epochs}"),
        rows=tuple(rows),
    )


def _return_table(runs: Sequence[ComparedRun], *, width: int, levels: str) -> Table:
    room = max(10, min(60, width - max(len(run.name) for run in runs) - 40))
    rows = tuple(
        (
            run.name,
            _NONE if not run.returns or run.returns[-1] is None else format_number(run.returns[-1]),
            draw_sparkline(run.returns, width=room, levels=levels),
        )
        for run in runs
    )
    columns = ("training", "last return", "returns of all rounds, each from its lowest to its highest")
    return Table(title="Returns", columns=columns, rows=rows, numbers=frozenset({"last return"}))


def _say_figure(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")


def _show_figure(name: str, value: float) -> str:
    show = _FORMATS.get(name)
    return format_metric(name, value) if show is None else show(value)


def _show_deviation(name: str, spread: Spread) -> str:
    if spread.deviation is None:
        return _NONE
    return f"{spread.deviation:,.1f}" if name in _COUNT_NAMES else _show_figure(name, spread.deviation)
