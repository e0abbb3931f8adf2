"""One look at a run as lines of coloured pieces: the same for a terminal, a pipe and a file.

Pure: reads no file and no clock. Text from files is cleaned before it becomes a piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple, final

from esper.cli.strips import LETTERS, draw_strip, name_letters
from esper.leyline import SeedStage
from esper.nissa import (
    BLOCKS,
    TrainingSummary,
    WatchedEnvironment,
    WatchedHost,
    WatchView,
    clean_text,
    draw_sparkline,
    format_count,
    format_estimate,
    format_metric,
    format_number,
    format_percent,
    format_seconds,
)
from esper.runtime.run_records import RunInfo

RUNNING = "running"
"""State of a run that goes on."""
MAX_ROWS = 16
"""Live seeds, hosts and environments that are shown one by one; `--json` has all."""

_BOLD, _DIM = "bold", "dim"
_STATES: Mapping[str, str] = MappingProxyType(
    {RUNNING: "cyan", "finished": "green", "interrupted": "yellow", "failed": "red", "killed": "red"}
)
_TONES: Mapping[str, str] = MappingProxyType(
    {"growth": "cyan", "kept": "green", "lost": "magenta", "warning": "yellow", "end": _BOLD}
)
_LETTER_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        LETTERS[SeedStage.DORMANT.value]: _DIM,
        LETTERS[SeedStage.TRAINING.value]: "yellow",
        LETTERS[SeedStage.BLENDING.value]: "cyan",
        LETTERS[SeedStage.PROBATIONARY.value]: "blue",
        LETTERS[SeedStage.FOSSILIZED.value]: "green",
        LETTERS[SeedStage.CULLED.value]: "red",
        LETTERS[SeedStage.EMBARGOED.value]: "magenta",
    }
)
_CURVES = (
    ("return", "return"),
    ("gain", "gain"),
    ("approx_kl", "KL"),
    ("op_entropy", "entropy"),
    ("explained_variance", "explained"),
    ("clip_fraction", "clipped"),
)
"""Curve of a training, and its word on the screen."""
_LABEL, _NUMBER = 12, 10
"""Widths of a label and of a number before a curve, in characters."""
_NONE = "-"


class Piece(NamedTuple):
    """Some text of one look."""

    text: str
    style: str = ""
    """A style of rich; empty = plain."""


ScreenLine = tuple[Piece, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenSize:
    """Room for one look, in characters."""

    width: int = 100
    num_events: int = 10
    """Lines for what happened last."""
    levels: str = BLOCKS
    """Characters of a curve, from low to high."""


def render_screen(info: RunInfo, view: WatchView, *, now: float, size: ScreenSize) -> tuple[ScreenLine, ...]:
    """Return one look as lines.

    Args:
        info: The run's directory.
        view: Its events, summed up.
        now: Seconds since 1970-01-01 UTC.
        size: How much room there is.
    """
    lines: list[ScreenLine] = [_head(info, view), _progress(info, view, now)]
    if view.hosts:
        lines += _host(view.hosts[0], view, size)
        lines += _fleet(view.hosts)
    if view.training is not None:
        lines += _training(view.training, size)
        lines += _environments(view.environments)
    lines += _flags(view)
    lines += _events(view, size)
    if view.num_bad_lines:
        lines.append((Piece(f"{view.num_bad_lines} lines of the event files cannot be read", "yellow"),))
    return tuple(tuple(Piece(clean_text(text), style) for text, style in line) for line in lines)


def join_plain(lines: Iterable[ScreenLine]) -> str:
    """Return lines as plain text, each with a line end."""
    return "".join("".join(piece.text for piece in line).rstrip() + "\n" for line in lines)


def _head(info: RunInfo, view: WatchView) -> ScreenLine:
    what = f"{info.task or view.task}, {info.policy or view.policy}, seed {info.seed}"
    resumed = f", attempt {info.attempt + 1}" if info.attempt else ""
    return (
        Piece(info.path.absolute().name, _BOLD),
        Piece("  "),
        Piece(info.state or "?", _STATES.get(info.state, "")),
        Piece(f"  {what}{resumed}"),
    )


def _progress(info: RunInfo, view: WatchView, now: float) -> ScreenLine:
    if not view.kind:
        return (Piece("no event yet", _DIM),)
    word = "round" if view.kind == "training" else "epoch"
    parts = [f"{word} {view.num_done}/{view.num_planned or '?'}"]
    if view.num_planned:
        filled = min(20, 20 * view.num_done // view.num_planned)
        parts.append(f"[{'#' * filled}{'.' * (20 - filled)}]")
    if info.state == RUNNING:
        age = max(0.0, now - (now if view.last_time is None else view.last_time))
        if view.eta_seconds is not None:
            parts.append(f"eta {format_seconds(max(0.0, view.eta_seconds - age))}")
        parts.append(f"last event {format_seconds(age)} ago")
    elif view.status != "unfinished":
        parts.append(f"ended: {view.status}")
    return (Piece("  ".join(parts)),)


def _host(host: WatchedHost, view: WatchView, size: ScreenSize) -> list[ScreenLine]:
    curves = host.curves
    lines = []
    if curves.epochs:
        name = curves.metric_name
        lines.append(_curve(name, curves.metric, format_metric(name, curves.metric[-1]), size))
        for label, values in (("loss", curves.validation_loss), ("train loss", curves.train_loss)):
            lines.append(_curve(label, values, format_number(values[-1]), size))
    lines.append(
        _fact(
            "parameters",
            f"{format_count(host.total_params)} (host {format_count(host.host_params)}); "
            f"{len(host.seeds)} live, {host.num_fossilized} fossilized, {host.num_culled} culled, "
            f"{host.num_rollbacks} rollbacks",
        )
    )
    lines += _strips(host, max(view.num_planned, host.epoch), size)
    lines += _seeds(host)
    return lines


def _strips(host: WatchedHost, num_epochs: int, size: ScreenSize) -> list[ScreenLine]:
    if not host.strips:
        return []
    label = max(_LABEL, *(len(clean_text(slot)) + 1 for slot in host.strips))
    width = max(10, size.width - label)
    strips = {
        slot: draw_strip(spans, num_epochs=num_epochs, width=width) for slot, spans in host.strips.items()
    }
    note = f"epochs 0 to {num_epochs}: {name_letters(strips.values())}"
    lines: list[ScreenLine] = [(Piece(""),), _title("slots", note)]
    for slot, strip in strips.items():
        letters = (Piece("".join(run), _LETTER_COLOURS.get(letter, "")) for letter, run in groupby(strip))
        lines.append((Piece(clean_text(slot).ljust(label)), *letters))
    return lines


def _seeds(host: WatchedHost) -> list[ScreenLine]:
    rows = [
        (
            seed.slot,
            seed.seed_id,
            seed.blueprint,
            seed.stage,
            _NONE if seed.alpha is None else f"{seed.alpha:.2f}",
            format_estimate(seed.contribution, seed.contribution_error),
            format_count(seed.num_params),
            str(host.epoch - seed.start_epoch),
        )
        for seed in host.seeds
    ]
    head = ("slot", "seed", "blueprint", "stage", "alpha", "contribution", "parameters", "age")
    return _table("live seeds", head, rows) if rows else []


def _fleet(hosts: Sequence[WatchedHost]) -> list[ScreenLine]:
    if len(hosts) < 2:
        return []
    rows = [
        (
            str(host.instance),
            str(host.epoch),
            format_metric(host.curves.metric_name, host.curves.metric[-1]) if host.curves.metric else _NONE,
            format_count(host.total_params),
            str(len(host.seeds)),
            str(host.num_fossilized),
            str(host.num_culled),
        )
        for host in hosts
    ]
    head = ("host", "epoch", "metric", "parameters", "live", "fossilized", "culled")
    return _table(f"{len(hosts)} hosts, the first one above", head, rows)


def _training(summary: TrainingSummary, size: ScreenSize) -> list[ScreenLine]:
    failures = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.failures.items()))
    lines = []
    for name, word in _CURVES:
        values = summary.curves.metrics.get(name, ())
        if values and any(value is not None for value in values):
            last = _NONE if values[-1] is None else format_number(values[-1])
            lines.append(_curve(word, values, last, size))
    lines.append(
        _fact(
            "hosts",
            f"{format_count(summary.num_episodes)} ended, {summary.num_envs} at a time, "
            f"{summary.horizon_epochs} epochs each; {sum(summary.failures.values())} failed"
            + (f" ({failures})" if failures else "")
            + f"; {format_count(summary.num_env_steps)} steps, "
            f"{format_count(summary.num_quarantined)} rows in quarantine",
        )
    )
    total = sum(summary.ops.values())
    if total:
        shares = sorted(summary.ops.items(), key=lambda item: (-item[1], item[0]))
        lines.append(_fact("operations", ", ".join(f"{op} {format_percent(n / total)}" for op, n in shares)))
    return lines


def _environments(found: Sequence[WatchedEnvironment]) -> list[ScreenLine]:
    rows = [
        (
            str(each.env_id),
            str(each.num_episodes),
            format_number(each.total_reward),
            format_number(each.metric),
            format_number(each.never_metric),
            str(each.num_fossils),
            each.reason,
        )
        for each in found
    ]
    head = ("environment", "hosts", "last return", "metric", "never grown", "fossils", "ended")
    return _table("environments, by the host that ended last", head, rows) if rows else []


def _flags(view: WatchView) -> list[ScreenLine]:
    if not view.flags:
        return []
    shown = view.flags[-MAX_ROWS:]
    word = "rounds" if view.kind == "training" else "epochs"
    lines: list[ScreenLine] = [(Piece(""),), _title("red flags", _say_more(len(view.flags), len(shown)))]
    for flag in shown:
        times = (
            f" ({flag.num_times} times, {word} {flag.first_epoch} to {flag.last_epoch})"
            if flag.num_times > 1
            else ""
        )
        told = flag.text if flag.text.startswith("red flag: ") else f"{flag.kind}: {flag.text}"
        lines.append((Piece("! ", "red"), Piece(f"{told.removeprefix('red flag: ')}{times}", "yellow")))
    return lines


def _events(view: WatchView, size: ScreenSize) -> list[ScreenLine]:
    shown = view.events[-size.num_events :] if size.num_events > 0 else ()
    if not shown:
        return []
    digits = max(len(str(event.epoch)) for event in shown)
    lines: list[ScreenLine] = [(Piece(""),), _title("last events", "")]
    for event in shown:
        lines.append(
            (Piece(f"{event.epoch:>{digits}}  ", _DIM), Piece(event.text, _TONES.get(event.tone, "")))
        )
    return lines


def _curve(label: str, values: Sequence[float | None], last: str, size: ScreenSize) -> ScreenLine:
    width = max(10, size.width - _LABEL - _NUMBER - 2)
    line = draw_sparkline(values, width=width, levels=size.levels)
    return (Piece(clean_text(label)[: _LABEL - 1].ljust(_LABEL)), Piece(last.rjust(_NUMBER) + "  "),
            Piece(line, "cyan"))  # fmt: skip


def _fact(label: str, text: str) -> ScreenLine:
    return (Piece(label.ljust(_LABEL)), Piece(text))


def _title(word: str, note: str) -> ScreenLine:
    return (Piece(word, _BOLD), Piece(f"  {note}" if note else "", _DIM))


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[ScreenLine]:
    shown = [tuple(clean_text(cell) for cell in row) for row in rows[:MAX_ROWS]]
    widths = [max(len(row[place]) for row in (head, *shown)) for place in range(len(head))]
    lines: list[ScreenLine] = [(Piece(""),), _title(title, _say_more(len(rows), len(shown)))]
    for row, style in ((tuple(head), _DIM), *((row, "") for row in shown)):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append((Piece("  ".join(cells).rstrip(), style),))
    return lines


def _say_more(num_all: int, num_shown: int) -> str:
    return f"{num_shown} of {num_all}; --json has all" if num_shown < num_all else ""
