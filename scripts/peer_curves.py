"""Accuracy against FLOPs of the benchmark against peers, one SVG per task, the same on every machine.

    python scripts/peer_curves.py            draw docs/peer_TASK.svg for every task with published rows
    python scripts/peer_curves.py --check    exit 1 if a picture differs from its rows

Drawn is the validation accuracy of some arms over the FLOPs spent, mean over seeds, with the 95 % t interval
of the mean; each arm as far as its shortest bill.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from peer_rows import Curve, is_sound, read_budget, read_curve
from study_rows import Row, by_seed, estimate_interval, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "small_flops": "#999999",
        "big_flops": "#000000",
        "periodic_random": "#56b4e9",
        "heuristic": "#0072b2",
        "width_random": "#e69f00",
        "width_tiny": "#d55e00",
    }
)
"""Arm -> colour, of Okabe and Ito (2008); the other arms are in the table."""
NUM_PLACES = 120
"""Places on the axis of FLOPs at which the mean is taken."""
_INK = "#333333"


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Mean over seeds with its interval, at places of the FLOPs axis."""

    flops: tuple[float, ...]
    mean: tuple[float, ...]
    half_width: tuple[float, ...]
    """0 for a single seed."""


def accuracy_at(curve: Curve, flops: float) -> float | None:
    """Return the last accuracy known by then; None before the first epoch has ended."""
    known = [accuracy for spent, accuracy in curve if spent <= flops]
    return known[-1] if known else None


def compute_band(curves: Sequence[Curve], budget: float) -> Band:
    """Return the band from the place where every seed has an accuracy to the end of the shortest run.

    Args:
        curves: One per seed, none empty.
        budget: Right end of the axis in FLOPs.
    """
    end = min(budget, *(curve[-1][0] for curve in curves))
    places, means, widths = [], [], []
    for index in range(1, NUM_PLACES + 1):
        flops = end * index / NUM_PLACES
        values = [accuracy_at(curve, flops) for curve in curves]
        known = [value for value in values if value is not None]
        if len(known) < len(curves):
            continue
        interval = estimate_interval(known)
        places.append(flops)
        means.append(interval.mean)
        widths.append(interval.half_width or 0.0)
    return Band(flops=tuple(places), mean=tuple(means), half_width=tuple(widths))


def draw(task: str, rows: Sequence[Row]) -> bytes:
    """Return the picture as SVG: no date, no version, no random name in it.

    Args:
        task: Its name.
        rows: Published ones, at least one.
    """
    budget = read_budget(rows)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's own style says
        # Names inside the file come from the salt, text stays text: no clock and no chance has a part in it.
        matplotlib.rcParams.update(
            {"svg.hashsalt": "esper-lite", "svg.fonttype": "none", "text.parse_math": False}
        )
        figure = Figure(figsize=(7.5, 4.5), facecolor="white", layout="constrained")
        axes = figure.subplots()
        for arm, colour in COLOURS.items():
            runs = [row for row in by_seed(rows, arm).values() if is_sound(row)]
            if runs:
                band = compute_band([read_curve(row) for row in runs], budget)
                _draw_arm(axes, f"{arm} ({len(runs)})", colour, band)
        axes.set_xlabel("GFLOP spent", color=_INK)
        axes.set_ylabel("validation accuracy", color=_INK)
        axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
        axes.legend(loc="lower right", fontsize=8.5, framealpha=0.9, edgecolor="none")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.suptitle(f"{task}: mean over seeds, 95 % t interval", fontsize=11, color=_INK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw_arm(axes: Axes, label: str, colour: str, band: Band) -> None:
    places = [flops / 1e9 for flops in band.flops]
    low = [mean - half for mean, half in zip(band.mean, band.half_width, strict=True)]
    high = [mean + half for mean, half in zip(band.mean, band.half_width, strict=True)]
    axes.plot(places, band.mean, color=colour, linewidth=1.6, label=label)
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def draw_all(results: Path) -> dict[str, bytes]:
    """Return the picture of every task that has published rows, by file name."""
    pictures = {}
    for path in sorted(results.glob("peer_*.jsonl")):
        rows = [row for row in read_rows(path) if row["stage"] == "publish"]
        if rows:
            pictures[f"{path.stem}.svg"] = draw(path.stem.removeprefix("peer_"), rows)
    return pictures


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, or compare."""
    parser = argparse.ArgumentParser(description="Draw accuracy against FLOPs from the committed rows.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    for name, picture in draw_all(arguments.results).items():
        path = arguments.docs / name
        if path.exists() and path.read_bytes() == picture:
            continue
        if arguments.check:
            print(f"{path} differs from its rows: run scripts/peer_curves.py", file=sys.stderr)
            return 1
        path.write_bytes(picture)
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
