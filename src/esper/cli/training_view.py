"""The training of a policy as tables and as JSON: how it went, what it did, what was wrong.

Pure: reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from esper.cli.output import Table
from esper.cli.run_view import format_time
from esper.leyline import JsonValue
from esper.nissa import (
    BLOCKS,
    AnomalyTally,
    TrainingCurves,
    TrainingSummary,
    average_known,
    curves_to_plain,
    draw_sparkline,
    format_count,
    format_number,
    format_percent,
    format_seconds,
    split_ends,
    training_to_plain,
)
from esper.runtime.run_records import POLICY_FOLDER_NAME, RunInfo

MAX_NOTICES = 20
"""Notices that are shown, the newest; `--json` has all of them."""

_SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = MappingProxyType(
    {
        "return": ("return per host", format_number),
        "gain": ("gain over never growing", format_number),
        "fossils": ("fossils per host", format_number),
        "fossilize_rate": ("hosts with a fossil", format_percent),
        "flops_ratio": ("FLOPs over never growing", format_number),
        "wait_share": ("choices to WAIT", format_percent),
        "op_entropy": ("entropy of the operation", format_percent),
        "explained_variance": ("explained variance", format_number),
        "time_explained_variance": ("explained by a clock", format_number),
        "approx_kl": ("KL of an update", format_number),
        "clip_fraction": ("clipped ratios", format_percent),
    }
)
"""Curve -> how a person calls it, and how its values are written."""
_LIST_COLUMNS = ("run", "task", "learner", "seed", "state", "rounds", "last return", "started (UTC)")
_NARROW_COLUMNS = ("run", "task", "state", "rounds", "last return")
_WIDE = 100
"""Width of a terminal that has room for all of them."""
_OTHER_COLUMNS = 50
"""Width of the table of rounds without its curves, in characters."""
_CURVE_WIDTHS = (10, 40)
"""Narrowest and widest curve, in characters."""
_NONE = "-"


def render_training_list(
    root: str, trainings: Sequence[tuple[RunInfo, TrainingSummary | None]], *, width: int
) -> Table:
    """Return the table of the trainings below a folder.

    Args:
        root: The folder.
        trainings: Each with its summary; None = its events cannot be read.
        width: Of the terminal, in characters; a narrow one gets fewer columns.
    """
    columns = _LIST_COLUMNS if width >= _WIDE else _NARROW_COLUMNS
    rows = [dict(zip(_LIST_COLUMNS, _list_row(info, summary), strict=True)) for info, summary in trainings]
    return Table(
        title=f"Trainings of policies in {root}",
        columns=columns,
        rows=tuple(tuple(row[column] for column in columns) for row in rows),
        numbers=frozenset({"seed", "rounds", "last return"}),
        is_folded=True,
    )


def render_training_tables(
    info: RunInfo, summary: TrainingSummary, *, has_policy: bool, width: int, levels: str = BLOCKS
) -> tuple[Table, ...]:
    """Return the tables of a training: facts, curves, operations, signs of trouble, notices if there are any.

    Args:
        info: Its directory.
        summary: Its events, summed up.
        has_policy: Whether the trained policy was written.
        width: Of the terminal, in characters.
        levels: Characters of a curve, from low to high.
    """
    tables = [
        _fact_table(info, summary, has_policy=has_policy),
        _curve_table(summary.curves, width=_fit_curve(width), levels=levels),
        _operation_table(summary),
        _anomaly_table(summary.anomalies),
    ]
    if summary.notices:
        tables.append(_notice_table(summary))
    return tuple(tables)


def training_to_json(info: RunInfo, summary: TrainingSummary, *, has_policy: bool) -> dict[str, JsonValue]:
    """Return the same as JSON: kind, run, training, rounds, policy_dir."""
    return {
        "kind": "training",
        "run": info.to_json(),
        "training": training_to_plain(summary),
        "rounds": list(curves_to_plain(summary.curves)),
        "policy_dir": str(info.path / POLICY_FOLDER_NAME) if has_policy else None,
    }


def listed_to_json(info: RunInfo, summary: TrainingSummary | None) -> dict[str, JsonValue]:
    """Return one training of a list as JSON: the keys of every run, and where the training stands."""
    return {
        **info.to_json(),
        "kind": "training",
        "num_rounds": None if summary is None else summary.num_rounds,
        "planned_rounds": None if summary is None else summary.planned_rounds,
        "last_return": None if summary is None else summary.last_return,
    }


def _list_row(info: RunInfo, summary: TrainingSummary | None) -> tuple[str, ...]:
    rounds = "?" if summary is None else f"{summary.num_rounds}/{summary.planned_rounds}"
    last = None if summary is None else summary.last_return
    return (
        info.path.name,
        info.task,
        info.policy,
        str(info.seed),
        info.state,
        rounds,
        _NONE if last is None else format_number(last),
        format_time(info.started_at),
    )


def _fit_curve(width: int) -> int:
    narrowest, widest = _CURVE_WIDTHS
    return max(narrowest, min(widest, width - _OTHER_COLUMNS))


def _fact_table(info: RunInfo, summary: TrainingSummary, *, has_policy: bool) -> Table:
    code = "" if info.exit_code is None else f" (exit code {info.exit_code})"
    done = f"{summary.num_rounds} of {summary.planned_rounds} in {format_seconds(summary.seconds)}"
    hosts = f"{format_count(summary.num_episodes)} ended, {summary.num_envs} at a time, " + (
        f"{summary.horizon_epochs} epochs each"
    )
    policy = str(info.path / POLICY_FOLDER_NAME) if has_policy else "written when the last round has ended"
    rows = (
        ("directory", str(info.path)),
        ("state", f"{info.state}{code}"),
        ("task", info.task),
        ("learner", f"{info.policy}, a policy of {format_count(summary.num_parameters)} parameters"),
        ("seed", str(info.seed)),
        ("rounds", done),
        ("hosts", hosts),
        ("steps", format_count(summary.num_env_steps)),
        ("failed hosts", _count_failures(summary)),
        ("quarantined rows", format_count(summary.num_quarantined)),
        ("policy", policy),
        ("started", f"{format_time(info.started_at)} UTC"),
        ("resumed", f"{info.attempt} times" if info.attempt else "never"),
        ("run id", info.run_id),
    )
    return Table(title="Training of a policy", columns=("what", "value"), rows=rows, is_folded=True)


def _count_failures(summary: TrainingSummary) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.failures.items()))
    return f"{sum(summary.failures.values())}" + (f" ({reasons})" if reasons else "")


def _curve_table(curves: TrainingCurves, *, width: int, levels: str) -> Table:
    title = "Rounds: means of the first and of the last, and all as a curve from low to high"
    if not curves.rounds:
        return Table(title="Rounds", columns=("rounds",), rows=(), empty="none has ended yet")
    ends = _name_ends(curves.rounds)
    rows = []
    for name, (word, show) in _SHOWN.items():
        values = curves.metrics[name]
        cells = [_show_mean(values[part], show) for part in ends.values()]
        rows.append((word, *cells, draw_sparkline(values, width=width, levels=levels)))
    counts = tuple(map(float, curves.num_episodes))
    hosts = [_show_mean(counts[part], lambda value: f"{value:.1f}") for part in ends.values()]
    rows.append(("hosts that ended", *hosts, draw_sparkline(counts, width=width, levels=levels)))
    columns = ("rounds", *ends, f"{curves.rounds[0]}-{curves.rounds[-1]}")
    return Table(title=title, columns=columns, rows=tuple(rows), numbers=frozenset(ends))


def _operation_table(summary: TrainingSummary) -> Table:
    curves = summary.curves
    title = "Operations: share of the choices, and how many were carried out"
    if not curves.rounds:
        return Table(title="Operations", columns=("operation",), rows=(), empty="none yet")
    ends = _name_ends(curves.rounds)
    rows = []
    for op in sorted({*summary.ops, *curves.op_shares}):
        values = curves.op_shares.get(op, ())
        shares = [_show_mean(values[part], format_percent) for part in ends.values()]
        rows.append((op, *shares, format_count(summary.ops.get(op, 0))))
    columns = ("operation", *ends, "carried out")
    return Table(title=title, columns=columns, rows=tuple(rows), numbers=frozenset(columns[1:]))


def _anomaly_table(anomalies: Sequence[AnomalyTally]) -> Table:
    rows = tuple((_say_name(tally.name), _say_when(tally), tally.advice) for tally in anomalies)
    return Table(title="Signs of trouble", columns=("sign", "found", "what to do"), rows=rows)


def _notice_table(summary: TrainingSummary) -> Table:
    shown = summary.notices[-MAX_NOTICES:]
    more = len(summary.notices) - len(shown)
    title = "Notices" + (f" (the last {len(shown)}; {more} more with --json)" if more else "")
    return Table(
        title=title,
        columns=("round", "notice"),
        rows=tuple((str(notice.round), notice.text) for notice in shown),
        numbers=frozenset({"round"}),
    )


def _name_ends(rounds: Sequence[int]) -> dict[str, slice]:
    """Return "1-5" -> the first rounds, "16-20" -> the last; a single round once."""
    return {_name_span(rounds[part]): part for part in split_ends(len(rounds))}


def _name_span(rounds: Sequence[int]) -> str:
    return str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]}-{rounds[-1]}"


def _show_mean(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    mean = average_known(values)
    return _NONE if mean is None else show(mean)


def _say_name(name: str) -> str:
    """Say "single_operation/WAIT" as "single operation: WAIT"."""
    head, _, what = name.partition("/")
    return head.replace("_", " ") + (f": {what}" if what else "")


def _say_when(tally: AnomalyTally) -> str:
    measured = f"{format_number(tally.value)} (threshold {format_number(tally.threshold)})"
    if tally.num_rounds == 1:
        return f"in round {tally.last_round}: {measured}"
    return f"in {tally.num_rounds} rounds, {tally.first_round} to {tally.last_round}, last {measured}"
