"""What all figures share: colours, a canvas of their own, clean axes, and their bytes.

Figures are built without pyplot, whose global list of figures would keep them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from esper.nissa.analytics.document import Image
from esper.nissa.text import clean_text, is_fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FigureFormat = Literal["svg", "png"]

INK = "#333333"
BLUE, GREY, GREEN, ORANGE, RED = "#0072b2", "#8a8a8a", "#009e73", "#e69f00", "#d55e00"
"""Colours of Okabe and Ito (2008), distinct for every common form of colour blindness."""
SERIES = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", RED, "#a6761d", GREY)
"""For curves and points side by side."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - 0.3 s that only reports pay
    from matplotlib.figure import Figure as NewFigure  # noqa: PLC0415

    figure = NewFigure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file_format: FigureFormat) -> Image:
    """Return a figure as bytes, the same ones for the same figure; letters become outlines in an SVG."""
    from matplotlib import rc_context  # noqa: PLC0415

    buffer = io.BytesIO()
    if file_format == "png":
        figure.savefig(buffer, format="png")
        return Image(media_type="image/png", data=buffer.getvalue())
    with rc_context({"svg.hashsalt": "esper", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Image(media_type="image/svg+xml", data=buffer.getvalue())


def dress(axes: Axes) -> None:
    """Take away what is not needed of a plot's frame."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)


def add_grid(axes: Axes) -> None:
    """Draw a light grid behind everything."""
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)


def label_metric(axes: Axes, name: str) -> None:
    """Name the y axis after a metric, and write fractions in per cent."""
    shown = shorten(name)
    if is_fraction(name):
        _format_axis(axes, "y", lambda value: f"{100 * value:.10g}")
        shown += " (%)"
    axes.set_ylabel(shown, color=INK, parse_math=False)


def label_amount(axes: Axes, text: str) -> None:
    """Name the x axis and write its counts shortly."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.set_xlabel(text, color=INK, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _format_axis(axes, "x", _short)


def shorten(text: str, limit: int = 60) -> str:
    """Clean a name and keep what the default font can draw: up to U+024F, the rest as "?"."""
    return "".join(char if char <= "\u024f" else "?" for char in clean_text(text))[:limit]


def _format_axis(axes: Axes, which: Literal["x", "y"], write: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def _short(value: float) -> str:
    """Return 12_300_000 as "12.3M"."""
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{value:.4g}P"
