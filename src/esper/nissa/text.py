"""Numbers and names as a person reads them; the only file that turns fractions into per cent."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor moves
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # OSC and other strings
    r"|\x1b[ -/]*[0-~]?",  # the rest
    re.DOTALL,
)
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""Levels of a sparkline, lowest first: blocks of one to eight eighths."""
PLAIN_LEVELS = "_.-=*#"
"""The same in ASCII, for an output that cannot show blocks."""

_FORBIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp"})


def clean_text(text: str) -> str:
    """Return text that cannot steer a terminal: no ANSI sequence, control, direction mark or lone surrogate.

    Line ends and tabs become one blank; a lone surrogate becomes U+FFFD.

    Example:
        >>> clean_text("one" + chr(10) + "two" + chr(7))
        'one two'
    """
    text = re.sub(r"[\r\n\t\u2028\u2029]+", " ", _ESCAPES.sub("", text))
    kept = (char for char in text if unicodedata.category(char) not in _FORBIDDEN)
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in kept)


def format_percent(fraction: float) -> str:
    """Return 0.942 as "94.2 %"; "nan" and "inf" stay as they are.

    Example:
        >>> format_percent(0.942)
        '94.2 %'
    """
    return f"{100 * fraction:.1f} %" if math.isfinite(fraction) else str(fraction)


def format_metric(name: str, value: float) -> str:
    """Return a metric's value: per cent where its name says that it is an accuracy, else three digits.

    Example:
        >>> format_metric("accuracy", 0.942), format_metric("loss", 0.3)
        ('94.2 %', '0.300')
    """
    return format_percent(value) if is_fraction(name) else format_number(value)


def is_fraction(name: str) -> bool:
    """Whether a metric of this name is a fraction in [0, 1] that readers expect in per cent."""
    return name.endswith("accuracy")


def format_number(value: float) -> str:
    """Return three decimals from 0.01 to 1,000 and three significant digits elsewhere.

    Example:
        >>> format_number(0.1234), format_number(0.0001234)
        ('0.123', '0.000123')
    """
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def format_estimate(mean: float | None, error: float | None, *, sign: str = "+-") -> str:
    """Return "+0.0123 +- 0.0041", "+0.0123", or "not measured".

    Example:
        >>> format_estimate(0.0123, 0.0041)
        '+0.0123 +- 0.0041'
    """
    if mean is None:
        return "not measured"
    return f"{mean:+.4f}" if error is None else f"{mean:+.4f} {sign} {error:.4f}"


def format_count(number: int) -> str:
    """Return 1204 as "1,204".

    Example:
        >>> format_count(1204)
        '1,204'
    """
    return f"{number:,}"


def format_seconds(seconds: float) -> str:
    """Return "21 s", "3 min 20 s" or "2 h 05 min".

    Example:
        >>> format_seconds(200)
        '3 min 20 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_flops(flops: int) -> str:
    """Return 12_300_000_000 as "12.3 GFLOPs".

    Example:
        >>> format_flops(12_300_000_000)
        '12.3 GFLOPs'
    """
    number = float(flops)
    for unit in ("", "k", "M", "G", "T"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}FLOPs"
        number /= 1000
    return f"{number:,.3g} PFLOPs"


def draw_sparkline(values: Sequence[float | None], *, width: int, levels: str = BLOCKS) -> str:
    """Return a curve as one line of at most `width` characters, from its lowest level to its highest.

    A longer curve is averaged in pieces; a blank stands where nothing finite is known; a constant is drawn
    at its lowest level.

    Args:
        values: One per round.
        width: In characters, at least 1.
        levels: Characters from low to high, at least two.

    Example:
        >>> draw_sparkline([0.0, 1.0, 2.0], width=3, levels="_-^")
        '_-^'
    """
    num_columns = min(width, len(values))
    edges = [place * len(values) // num_columns for place in range(num_columns + 1)] if num_columns else [0]
    pieces = [
        [value for value in values[low:high] if value is not None and math.isfinite(value)]
        for low, high in pairwise(edges)
    ]
    means = [math.fsum(piece) / len(piece) if piece else None for piece in pieces]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high / 2 - low / 2  # halves, so that no difference overflows
    top = len(levels) - 1
    places = [None if m is None else round(top * (m / 2 - low / 2) / span) if span > 0 else 0 for m in means]
    return "".join(" " if place is None else levels[place] for place in places)
