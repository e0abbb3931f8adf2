"""The report's picture: metric and loss over epochs, and under them the life of every slot on the same axis.

Draws on a figure of its own; matplotlib's global state is never touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from esper.leyline import SeedStage
from esper.nissa.analytics.drawing import (
    BLUE,
    GREY,
    INK,
    add_grid,
    dress,
    label_metric,
    new_figure,
    save_figure,
    shorten,
)
from esper.nissa.analytics.history import MetricCurves, SeedFate, StageSpan
from esper.nissa.text import format_percent, is_fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        SeedStage.DORMANT.value: "#f2f2f2",
        SeedStage.GERMINATED.value: "#f0e442",
        SeedStage.TRAINING.value: "#56b4e9",
        SeedStage.BLENDING.value: "#e69f00",
        SeedStage.PROBATIONARY.value: "#cc79a7",
        SeedStage.FOSSILIZED.value: "#009e73",
        SeedStage.CULLED.value: "#d55e00",
        SeedStage.EMBARGOED.value: "#bdbdbd",
        SeedStage.RESETTING.value: "#dcdcdc",
    }
)
"""Colours of Okabe and Ito (2008), distinct for every common form of colour blindness, greys for no seed."""

_VALIDATION, _TRAINING = BLUE, GREY
_MIN_LABEL_FRACTION = 0.008
"""Width of one letter of a strip's label as a fraction of the axis, at the figure's size."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PictureData:
    """Everything that the picture shows."""

    title: str
    curves: MetricCurves
    strips: Mapping[str, Sequence[StageSpan]]
    fates: Sequence[SeedFate]
    test_metric: float | None = None
    """Same metric as the curve, on the test split; None = not read."""
    rollback_epochs: tuple[int, ...] = ()
    num_epochs: int = 0
    """Right end of the axis, in epochs."""


def draw_picture(data: PictureData) -> bytes:
    """Draw the run and return a PNG, 1,500 pixels wide."""
    return save_figure(build_picture(data), "png").data


def build_picture(data: PictureData) -> Figure:
    """Return the picture as a figure.

    Example:
        >>> data = collect_picture(effective_events(log.records), compute_summary(log.records))
        >>> figure = build_picture(data)
        >>> len(figure.axes), float(figure.axes[0].get_xlim()[1])
        (3, 8.0)
    """
    strip_height = 0.55 + min(14.0, 0.42 * max(1, len(data.strips)))
    figure = new_figure(10.0, 5.6 + strip_height)
    grid = figure.add_gridspec(3, 1, height_ratios=(2.7, 2.1, strip_height))
    metric = figure.add_subplot(grid[0])
    loss = figure.add_subplot(grid[1], sharex=metric)
    strips = figure.add_subplot(grid[2], sharex=metric)
    figure.suptitle(shorten(data.title), fontsize=12, color=INK, parse_math=False)
    _draw_metric(metric, data)
    _draw_loss(loss, data.curves)
    _draw_strips(strips, data)
    last = max(1, data.num_epochs)
    metric.set_xlim(0, last)
    _draw_growth(metric, loss, data)
    for axes in (metric, loss, strips):
        dress(axes)
    for axes in (metric, loss):
        axes.tick_params(labelbottom=False)
    return figure


def _draw_metric(axes: Axes, data: PictureData) -> None:
    curves = data.curves
    has_markers = len(curves.epochs) <= 60
    if curves.train_metric is not None:
        _draw_line(axes, curves.epochs, curves.train_metric, _TRAINING, "train", has_markers=False)
    _draw_line(axes, curves.epochs, curves.metric, _VALIDATION, "validation", has_markers=has_markers)
    if data.test_metric is not None and math.isfinite(data.test_metric):
        shown = (
            format_percent(data.test_metric) if is_fraction(curves.metric_name) else f"{data.test_metric:.3f}"
        )
        axes.axhline(
            data.test_metric,
            color="#009e73",
            linewidth=1.2,
            linestyle="--",
            label=f"test, at the end: {shown}",
        )
    label_metric(axes, curves.metric_name)
    _grid_and_legend(axes)


def _draw_loss(axes: Axes, curves: MetricCurves) -> None:
    _draw_line(axes, curves.epochs, curves.train_loss, _TRAINING, "train", has_markers=False)
    has_markers = len(curves.epochs) <= 60
    _draw_line(
        axes, curves.epochs, curves.validation_loss, _VALIDATION, "validation", has_markers=has_markers
    )
    finite = [loss for loss in (*curves.train_loss, *curves.validation_loss) if math.isfinite(loss)]
    is_wide = bool(finite) and min(finite) > 0 and max(finite) > 30 * min(finite)
    if is_wide:
        axes.set_yscale("log")
    axes.set_ylabel("loss per item" + (" (log)" if is_wide else ""), color=INK)
    _grid_and_legend(axes)


def _draw_line(
    axes: Axes, epochs: Sequence[int], values: Sequence[float], colour: str, label: str, *, has_markers: bool
) -> None:
    finite = [value if math.isfinite(value) else math.nan for value in values]
    axes.plot(
        epochs,
        finite,
        color=colour,
        linewidth=1.7,
        marker="o" if has_markers else None,
        markersize=3,
        label=label,
    )


def _grid_and_legend(axes: Axes) -> None:
    add_grid(axes)
    axes.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _draw_strips(axes: Axes, data: PictureData) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    blueprints = {fate.seed_id: fate.blueprint for fate in data.fates}
    slots = list(data.strips)
    seen: set[str] = set()
    for row, slot in enumerate(slots):
        for span in data.strips[slot]:
            length = span.end_epoch - span.start_epoch
            if length > 0:
                colour = STAGE_COLOURS.get(span.stage, "#ffffff")
                axes.barh(row, length, left=span.start_epoch, height=0.72, color=colour, edgecolor="white")
                seen.add(span.stage)
        for seed_id, start, end in _label_places(data.strips[slot]):
            _label_seed(axes, row, (start, end), blueprints.get(seed_id, ""), max(1, data.num_epochs))
    axes.set_yticks(range(len(slots)))
    axes.set_yticklabels([shorten(slot)[-28:] for slot in slots], parse_math=False)
    axes.set_ylim(len(slots) - 0.5 if slots else 0.5, -0.5)
    axes.set_ylabel("slot", color=INK)
    axes.set_xlabel("epoch (decision intervals finished)", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    patches = [
        Patch(facecolor=colour, edgecolor="#999999", linewidth=0.5, label=stage.lower())
        for stage, colour in STAGE_COLOURS.items()
        if stage in seen
    ]
    if patches and axes.figure is not None:
        axes.figure.legend(
            handles=patches,
            loc="outside lower center",
            ncols=len(patches),
            frameon=False,
            fontsize=8.5,
            handlelength=1.2,
            columnspacing=1.2,
        )


def _draw_growth(metric: Axes, loss: Axes, data: PictureData) -> None:
    """Mark in both curves when a seed began to blend, was kept or was removed, and every rollback."""
    marked = ("BLENDING", "FOSSILIZED", "CULLED")
    for axes in (metric, loss):
        for spans in data.strips.values():
            for span in spans:
                if span.stage in marked and 0 < span.start_epoch < data.num_epochs:
                    axes.axvline(span.start_epoch, color=STAGE_COLOURS[span.stage], linewidth=1.1, alpha=0.75)
        for epoch in data.rollback_epochs:
            axes.axvline(epoch, color="black", linewidth=1.1, linestyle=":")
    text = "vertical lines: a seed begins to blend, is fossilized, is culled (colours as below)"
    if data.rollback_epochs:
        text += "; dotted: rollback to this epoch"
    metric.set_title(text, fontsize=8.5, color="#666666", loc="left")


def _label_places(spans: Sequence[StageSpan]) -> list[tuple[str, int, int]]:
    """(seed id, first epoch, last epoch) of the longest stage of every seed."""
    longest: dict[str, StageSpan] = {}
    with_seed = {stage.value for stage in SeedStage if stage.has_seed}
    for span in spans:
        if span.seed_id is not None and span.stage in with_seed:
            best = longest.get(span.seed_id)
            if best is None or span.end_epoch - span.start_epoch > best.end_epoch - best.start_epoch:
                longest[span.seed_id] = span
    return [(seed_id, span.start_epoch, span.end_epoch) for seed_id, span in longest.items()]


def _label_seed(axes: Axes, row: int, extent: tuple[int, int], blueprint: str, num_epochs: int) -> None:
    """Write the blueprint into its bar, where it fits."""
    start, end = extent
    text = shorten(blueprint)
    if text and (end - start) / num_epochs >= _MIN_LABEL_FRACTION * len(text):
        axes.text(
            (start + end) / 2,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="black",
            parse_math=False,
        )
