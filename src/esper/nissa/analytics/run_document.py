"""One host run as a document: facts, timeline, slots, blueprints, costs, seeds, shares, decisions, life."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from esper.leyline import Event, RedFlagRaised, RolledBack
from esper.nissa.analytics.coalitions import CoalitionTable
from esper.nissa.analytics.document import Block, Document, FigureBlock, Section, TextBlock, build_table
from esper.nissa.analytics.figures import build_contributions, build_costs, build_subsets
from esper.nissa.analytics.history import (
    MetricCurves,
    SeedFate,
    compute_curves,
    compute_fates,
    compute_strips,
    effective_events,
)
from esper.nissa.analytics.picture import PictureData, build_picture
from esper.nissa.analytics.scoreboard import compute_scoreboard
from esper.nissa.analytics.summary import RunSummary, compute_summary
from esper.nissa.analytics.tables import (
    build_decisions,
    build_diagnostics,
    build_flops,
    build_head,
    build_lifecycle,
    build_rollbacks,
    build_scoreboard,
    build_seeds,
    build_slots,
    name_run,
)
from esper.nissa.reader import RunLog
from esper.nissa.text import format_flops
from esper.nissa.wording_diagnostics import narrate

TIMELINE = "timeline"
"""Name of the figure of metric, loss and the life of every slot."""
MAX_RED_FLAGS = 100
"""Red flags listed one by one, the newest."""
MAX_COALITIONS = 64
"""Coalitions listed one by one; the file has all."""

_PLUS_MINUS = "\u00b1"


def build_run_document(log: RunLog, coalitions: CoalitionTable | None = None, instance: int = 0) -> Document:
    """Return the report of one host run; works on one that goes on.

    Args:
        log: As a reader returns it.
        coalitions: What subsets of its fossils are worth; None = not measured.
        instance: Which host run of a fleet.

    Example:
        >>> document = build_run_document(log)
        >>> document.title, [section.title for section in document.sections][:3]
        ('Growth run: synthetic', ['Slots', 'Blueprints', 'Compute by kind'])
    """
    events = effective_events(log.records, instance)
    summary = compute_summary(log.records, instance)
    fates, strips, curves = compute_fates(events), compute_strips(events), compute_curves(events)
    picture = collect_picture(events, summary)
    timeline = FigureBlock(
        name=TIMELINE, alt="Metric, loss and the life of every slot", draw=partial(build_picture, picture)
    )
    flops, seeds = build_flops(summary), build_seeds(fates)
    sections = [
        build_slots(fates, strips),
        build_scoreboard(compute_scoreboard(fates)),
        Section(title=flops.title, blocks=(*flops.blocks, *_cost_figure(curves, picture.test_metric))),
        Section(title=seeds.title, blocks=(*seeds.blocks, *_contribution_figure(fates, coalitions))),
        *([] if coalitions is None else [build_shares(coalitions)]),
        build_decisions(events),
        build_diagnostics(events),
        build_red_flags(events),
        build_rollbacks(events),
        build_lifecycle(fates, strips),
        build_reading(log),
    ]
    return Document(
        title=name_run(summary),
        head=(*build_head(summary), timeline),
        sections=tuple(section for section in sections if section is not None),
    )


def collect_picture(events: Sequence[Event], summary: RunSummary) -> PictureData:
    """Return what the timeline shows.

    Args:
        events: As `effective_events` returns them.
        summary: Of the same run.

    Example:
        >>> picture = collect_picture(effective_events(log.records), compute_summary(log.records))
        >>> picture.title, picture.num_epochs
        ('synthetic, policy cycle, seed 0', 8)
    """
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


def build_shares(table: CoalitionTable) -> Section:
    """Return the Shapley values of the fossils, and what the subsets are worth."""
    how = (
        f"every one of {len(table.values)} subsets"
        if table.num_orders is None
        else f"subsets along {table.num_orders} random orders"
    )
    flops = format_flops(sum(table.flops.values()))
    text = (
        f"Measured on {table.num_items} validation items of checkpoint {table.checkpoint} (epoch "
        f"{table.epoch}): {how}, {flops} beside the run's own bill. A Shapley value is a fossil's share of "
        f"what all of them bring together, here {_whole(table)} in {table.quantity}; the shares add up "
        "to it. A contribution in the table above is of the time when its seed was kept, these are of that "
        "checkpoint. The errors of the subsets are not those of their differences, which are paired by item."
    )
    shares = [
        (
            row.seed_id,
            row.blueprint,
            f"{row.shapley:+.4f}",
            f"{row.standard_error:.4f}",
            f"{row.sampling_error:.4f}" if table.num_orders is not None else "exact",
            f"{row.alone:+.4f}",
            f"{row.last:+.4f}",
        )
        for row in table.shares
    ]
    head = (
        "seed",
        "blueprint",
        "Shapley value",
        "s.e. over items",
        "s.e. over orders",
        "alone",
        "as the last one",
    )
    values = [
        (", ".join(row.slots) or "none", f"{row.metric:.4f}", f"{row.standard_error:.4f}")
        for row in table.values[:MAX_COALITIONS]
    ]
    more = len(table.values) - len(values)
    return Section(
        title="Shapley values",
        blocks=(
            TextBlock(text=text),
            build_table(head, shares),
            *_subset_figure(table),
            build_table(("fossils that are on", f"mean of {table.quantity}", "s.e."), values),
            *([TextBlock(text=f"{more} more subsets are in the file.")] if more else []),
        ),
    )


def build_red_flags(events: Sequence[Event]) -> Section | None:
    """Return every red flag in words, the newest if there are many; None where there was none."""
    flags = [event for event in events if isinstance(event, RedFlagRaised)]
    if not flags:
        return None
    shown = flags[-MAX_RED_FLAGS:]
    rows = [(str(flag.epoch), str(narrate(replace(flag, advice=""))), flag.advice) for flag in shown]
    blocks: list[Block] = [build_table(("epoch", "red flag", "what helps"), rows)]
    if len(flags) > len(shown):
        blocks.append(TextBlock(text=f"{len(flags) - len(shown)} earlier ones are in the event file."))
    return Section(title="Red flags", blocks=tuple(blocks))


def build_reading(log: RunLog) -> Section | None:
    """Say what the event files lacked; None where they were whole."""
    facts = []
    if log.num_torn:
        facts.append(f"{log.num_torn} event files end in a torn line, which was left out.")
    if log.num_superseded:
        facts.append(f"{log.num_superseded} records were superseded by a resume and left out.")
    if log.num_dropped:
        facts.append(f"{log.num_dropped} samples were dropped to keep the files within their room.")
    facts += [f"{bad.file}, line {bad.line} could not be read." for bad in log.bad_lines[:20]]
    if len(log.bad_lines) > 20:
        facts.append(f"{len(log.bad_lines) - 20} more lines could not be read.")
    blocks = tuple(TextBlock(text=fact) for fact in facts)
    return Section(title="Event files", blocks=blocks) if facts else None


def _cost_figure(curves: MetricCurves, test_metric: float | None) -> tuple[Block, ...]:
    if not curves.epochs:
        return ()
    alt = f"Validation {curves.metric_name} against parameters and against FLOPs, one point per epoch"
    return (FigureBlock(name="costs", alt=alt, draw=partial(build_costs, curves, test_metric)),)


def _contribution_figure(fates: Sequence[SeedFate], coalitions: CoalitionTable | None) -> tuple[Block, ...]:
    if not any(fate.contribution is not None and math.isfinite(fate.contribution) for fate in fates):
        return ()
    draw = partial(build_contributions, fates, coalitions)
    return (FigureBlock(name="contributions", alt="Contribution of every seed with its error", draw=draw),)


def _subset_figure(table: CoalitionTable) -> tuple[Block, ...]:
    if not table.shares:
        return ()
    alt = "Metric of every subset of the fossils with its standard error"
    return (FigureBlock(name="subsets", alt=alt, draw=partial(build_subsets, table)),)


def _whole(table: CoalitionTable) -> str:
    return f"{math.fsum(row.shapley for row in table.shares):+.4f}"
