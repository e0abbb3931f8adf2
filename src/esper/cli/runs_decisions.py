"""esper runs decisions RUN [--instance N] [--epoch N] [--round N] [--last N] [--json]: why did it do that?

Lists the decisions of a run with what became of them: refused, rewarded, and what the seed they addressed was
worth afterwards. If just one is left, by --epoch or otherwise, it is shown in full: the probability and
legality of every option, the parts of its reward, and the features that the policy saw.

Example: esper runs decisions runs/digits-heuristic-0-20260101-120000 --epoch 3
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import Table, report_note, write_json, write_tables
from esper.leyline import ConfigError, ExitCode
from esper.nissa import (
    JoinedDecision,
    decision_to_plain,
    format_estimate,
    join_decisions,
    pick_decisions,
    read_run,
    word_decision,
    word_reward,
)

_DASH = "-"
_MOST_ROWS = 200
"""Of a list, unless --last asks for more."""


def show_decisions(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, or the run cannot be read.
    """
    parser = CommandParser("runs decisions", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the run")
    for name, text in (
        ("instance", "decisions of this host only"),
        ("epoch", "decisions after this many epochs only"),
        ("round", "decisions of this round only, where a policy was trained"),
        ("last", "the last N of them only"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", dest="is_json", help="print all that is known as JSON")
    given = parser.parse_all(args)
    if given.last is not None and given.last < 1:
        raise ConfigError(f"--last {given.last}: must be >= 1")
    log = read_run(given.run)
    rows = pick_decisions(
        join_decisions(log.records), instance=given.instance, epoch=given.epoch, round_number=given.round
    )
    if given.last is None and not given.is_json and len(rows) > _MOST_ROWS:
        report_note(f"the last {_MOST_ROWS} of {len(rows)} decisions; --last {len(rows)} lists all")
    most = len(rows) if given.is_json else _MOST_ROWS
    rows = rows[-(most if given.last is None else given.last) :]
    if given.is_json:
        write_json([decision_to_plain(row) for row in rows])
    else:
        write_tables(render_decision(rows[0]) if len(rows) == 1 else (render_list(rows),))
    if log.num_dropped:
        report_note(
            f"{log.num_dropped} samples are not in the event files any more, decisions may be missing"
        )
    return int(ExitCode.OK)


def render_list(rows: Sequence[JoinedDecision]) -> Table:
    """Return one line per decision."""
    has_rounds = any(row.decision.round is not None for row in rows)
    has_hosts = has_rounds or any(row.decision.instance for row in rows)
    columns = (
        "epoch",
        "decision",
        "probability",
        "value",
        "reward",
        "return",
        "contribution",
        "outcome",
        "reason",
    )
    return Table(
        title="Decisions",
        columns=(*(("round",) if has_rounds else ()), *(("host",) if has_hosts else ()), *columns),
        rows=tuple(
            (
                *((_show(row.decision.round),) if has_rounds else ()),
                *((_show(row.decision.instance),) if has_hosts else ()),
                *_describe(row),
            )
            for row in rows
        ),
        empty="none on record that fit",
        numbers=frozenset({"round", "host", "epoch", "probability", "value", "reward", "return"}),
    )


def render_decision(row: JoinedDecision) -> tuple[Table, ...]:
    """Return everything about one decision."""
    decision = row.decision
    facts = (
        ("decision", word_decision(decision)),
        ("epoch", str(decision.epoch)),
        ("host", str(decision.instance)),
        ("outcome", _outcome(row)),
        ("reason", decision.reason),
        ("confidence", f"{decision.confidence:.3g}"),
        ("value", _number(decision.value)),
        ("reward", "not on record" if row.reward is None else word_reward(row.reward)),
        ("contribution", _contribution(row)),
    )
    options = tuple(
        (
            head if place == 0 else "",
            option.name + (" <" if option.is_chosen else ""),
            _DASH if option.is_legal is None else ("yes" if option.is_legal else "no"),
            _number(option.probability),
        )
        for head, found in row.options.items()
        for place, option in enumerate(found)
    )
    features = tuple((name, f"{value:g}") for name, value in decision.observation.items())
    return (
        Table(title="Decision", columns=("", " "), rows=facts),
        Table(
            title="Options (< chosen)",
            columns=("head", "option", "legal", "probability"),
            rows=options,
            empty="not on record",
            numbers=frozenset({"probability"}),
        ),
        Table(
            title="What it saw (what is left out is 0)",
            columns=("feature", "value"),
            rows=features,
            empty="not kept; see telemetry.observations",
            numbers=frozenset({"value"}),
        ),
    )


def _describe(row: JoinedDecision) -> tuple[str, ...]:
    decision, reward = row.decision, row.reward
    chosen = [option.probability for option in row.options.get("op", ()) if option.is_chosen]
    return (
        str(decision.epoch),
        word_decision(decision),
        _number(chosen[0]) if chosen else _DASH,
        _number(decision.value),
        _DASH if reward is None else f"{reward.total:+.3g}",
        _DASH if reward is None else f"{reward.return_so_far:+.3g}",
        _contribution(row),
        _outcome(row),
        decision.reason,
    )


def _outcome(row: JoinedDecision) -> str:
    refusal = row.decision.refusal
    return ("done" if refusal is None else f"refused: {refusal}") + ("; undone" if row.is_undone else "")


def _contribution(row: JoinedDecision) -> str:
    measured = row.measured
    if measured is None or measured.contribution is None:
        return _DASH
    return format_estimate(measured.contribution, measured.contribution_error)


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3g}"


def _show(value: int | None) -> str:
    return _DASH if value is None else str(value)
