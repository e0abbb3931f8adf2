"""The training of a policy as a document: facts, rounds as curves and numbers, operations, trouble."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from esper.nissa.analytics.document import Block, Document, FigureBlock, Section, TextBlock, build_table
from esper.nissa.analytics.figures import build_rounds
from esper.nissa.analytics.run_document import build_reading, build_red_flags
from esper.nissa.analytics.training import (
    TrainingCurves,
    TrainingSummary,
    average_known,
    compute_training_summary,
    split_ends,
)
from esper.nissa.reader import RunLog
from esper.nissa.text import format_count, format_number, format_seconds

MAX_ROUNDS = 200
"""Rounds listed one by one, the latest."""
_SHOWN = ("return", "gain", "fossils", "approx_kl", "op_entropy", "explained_variance", "clip_fraction")
_DASH = "-"


def build_training_document(log: RunLog) -> Document:
    """Return the report of the training of a policy; works on one that goes on.

    Args:
        log: As a reader returns it.

    Example:
        >>> build_training_document(RunLog(headers=(), records=())).title
        'Training of a policy: unnamed task'
    """
    summary = compute_training_summary(log.records)
    events = [record.event for record in log.records]
    sections = (
        _ends_section(summary.curves),
        _operation_section(summary),
        _trouble_section(summary),
        build_red_flags(events),
        _round_section(summary.curves),
        build_reading(log),
    )
    return Document(
        title=f"Training of a policy: {summary.task or 'unnamed task'}",
        head=_head(summary),
        sections=tuple(section for section in sections if section is not None),
    )


def _head(summary: TrainingSummary) -> tuple[Block, ...]:
    text = (
        f"Seed {summary.seed}; {summary.num_rounds} of {summary.planned_rounds} rounds in "
        f"{format_seconds(summary.seconds)}; ended: {summary.status}."
    )
    failures = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.failures.items()))
    rows = (
        ("hosts at a time", format_count(summary.num_envs)),
        ("epochs per host", format_count(summary.horizon_epochs)),
        ("hosts that ended", format_count(summary.num_episodes)),
        ("hosts that failed", failures or "none"),
        ("steps", format_count(summary.num_env_steps)),
        ("rows in quarantine", format_count(summary.num_quarantined)),
        ("parameters of the policy", format_count(summary.num_parameters)),
        ("last return", _DASH if summary.last_return is None else format_number(summary.last_return)),
    )
    figures: list[Block] = []
    if summary.curves.rounds:
        alt = "Return, KL, entropy and explained variance per round"
        figures.append(FigureBlock(name="rounds", alt=alt, draw=partial(build_rounds, summary.curves)))
    return (TextBlock(text=text), build_table(("quantity", "value"), rows), *figures)


def _say_span(rounds: Sequence[int]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]}-{rounds[-1]}"


def _ends_section(curves: TrainingCurves) -> Section:
    if not curves.rounds:
        return Section(title="Beginning and end", blocks=(TextBlock(text="No round has ended yet."),))
    parts = split_ends(len(curves.rounds))
    spans = [_say_span(curves.rounds[part]) for part in parts]
    rows = [
        (name.replace("_", " "), *(_show(average_known(values[part])) for part in parts))
        for name, values in curves.metrics.items()
    ]
    return Section(title="Beginning and end", blocks=(build_table(("mean of", *spans), rows),))


def _operation_section(summary: TrainingSummary) -> Section:
    last = split_ends(max(1, len(summary.curves.rounds)))[1]
    shares = {op: average_known(values[last]) for op, values in summary.curves.op_shares.items()}
    rows = [
        (op, format_count(summary.ops.get(op, 0)), _show(shares.get(op)))
        for op in sorted({*summary.ops, *shares})
    ]
    head = ("operation", "carried out", "share of the choices in the last rounds")
    return Section(title="Operations", blocks=(build_table(head, rows),))


def _trouble_section(summary: TrainingSummary) -> Section:
    found = [
        (
            tally.name.replace("_", " "),
            str(tally.num_rounds),
            f"{tally.first_round}-{tally.last_round}",
            format_number(tally.value),
            format_number(tally.threshold),
            tally.advice,
        )
        for tally in summary.anomalies
    ]
    notices = [(str(notice.round), notice.text) for notice in summary.notices[-MAX_ROUNDS:]]
    head = ("sign", "rounds", "between", "last value", "threshold", "what to do")
    return Section(
        title="Signs of trouble",
        blocks=(
            build_table(head, found),
            *([build_table(("round", "notice"), notices)] if notices else []),
        ),
    )


def _round_section(curves: TrainingCurves) -> Section:
    first = max(0, len(curves.rounds) - MAX_ROUNDS)
    rows = [
        (
            str(curves.rounds[place]),
            format_count(curves.num_env_steps[place]),
            str(curves.num_episodes[place]),
            *(_show(curves.metrics[name][place]) for name in _SHOWN),
        )
        for place in range(first, len(curves.rounds))
    ]
    head = ("round", "steps", "hosts", *(name.replace("_", " ") for name in _SHOWN))
    blocks: list[Block] = [build_table(head, rows)]
    if first:
        blocks.append(TextBlock(text=f"{first} earlier rounds are in the event file."))
    return Section(title="Rounds", blocks=tuple(blocks))


def _show(value: float | None) -> str:
    return _DASH if value is None else format_number(value)
