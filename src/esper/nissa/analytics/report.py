"""Writes the report of a run directory: `report.md` with its tables and `report.png` with its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.leyline import Event, RolledBack
from esper.nissa.analytics.history import compute_curves, compute_fates, compute_strips, effective_events
from esper.nissa.analytics.picture import PictureData, draw_picture
from esper.nissa.analytics.scoreboard import compute_scoreboard
from esper.nissa.analytics.summary import RunSummary, compute_summary
from esper.nissa.analytics.tables import (
    render_decisions,
    render_diagnostics,
    render_flops,
    render_head,
    render_lifecycle,
    render_rollbacks,
    render_scoreboard,
    render_seeds,
    render_slots,
)
from esper.nissa.files import write_atomically
from esper.nissa.reader import RunLog, read_run


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """Where the report is."""

    markdown: Path
    picture: Path


def write_report(run_dir: Path, instance: int = 0) -> ReportPaths:
    """Write `report.md` and `report.png` into a run directory; works on an unfinished run too.

    Args:
        run_dir: A folder with event files.
        instance: Which host run of a fleet.

    Raises:
        RunDirectoryError: If there is no event file.
        DataError: If an event file has no header of this version.
        OSError: If the folder cannot be written.
    """
    log = read_run(run_dir)
    paths = ReportPaths(markdown=run_dir / "report.md", picture=run_dir / "report.png")
    events = effective_events(log.records, instance)
    summary = compute_summary(log.records, instance)
    write_atomically(paths.picture, draw_picture(_picture_data(events, summary)))
    write_atomically(paths.markdown, render_report(log, instance).encode())
    return paths


def render_report(log: RunLog, instance: int = 0) -> str:
    """Return the text of `report.md`."""
    events = effective_events(log.records, instance)
    summary = compute_summary(log.records, instance)
    fates, strips = compute_fates(events), compute_strips(events)
    parts = [
        render_head(summary),
        "\n![Metric, loss and the life of every slot](report.png)\n",
        render_slots(fates, strips),
        render_scoreboard(compute_scoreboard(fates)),
        render_flops(summary),
        render_seeds(fates),
        render_decisions(events),
        render_rollbacks(events),
        render_lifecycle(fates, strips),
        render_diagnostics(events),
        _render_reading(log),
    ]
    return "".join(parts)


def _picture_data(events: tuple[Event, ...], summary: RunSummary) -> PictureData:
    curves = compute_curves(events)
    last_told = max((event.epoch for event in events), default=0)
    return PictureData(
        title=f"{summary.task}, policy {summary.policy}, seed {summary.seed}",
        curves=curves,
        strips=compute_strips(events),
        fates=compute_fates(events),
        test_metric=summary.test_metrics.get(curves.metric_name),
        rollback_epochs=tuple(event.restored_epoch for event in events if isinstance(event, RolledBack)),
        num_epochs=max(last_told, summary.num_epochs),
    )


def _render_reading(log: RunLog) -> str:
    """Say what the event files lacked; an empty text where they were whole."""
    facts = []
    if log.num_torn:
        facts.append(f"{log.num_torn} event files end in a torn line, which was left out.")
    if log.num_superseded:
        facts.append(f"{log.num_superseded} records were superseded by a resume and left out.")
    facts += [f"{bad.file}, line {bad.line} could not be read." for bad in log.bad_lines[:20]]
    if len(log.bad_lines) > 20:
        facts.append(f"{len(log.bad_lines) - 20} more lines could not be read.")
    return "\n## Event files\n\n" + "\n".join(f"* {fact}" for fact in facts) + "\n" if facts else ""
