"""Learning curves of one setting over several training seeds, as one SVG that is the same on every machine.

    python scripts/learning_curves.py RUN [RUN ...] --output FILE.svg
    python scripts/learning_curves.py RUN [RUN ...] --output FILE.svg --rows ROWS.jsonl    keep the numbers
    python scripts/learning_curves.py ROWS.jsonl --output FILE.svg --gain-level heuristic=0.031

RUN is the directory of a run that trained a policy, finished or not; a rows file holds one line per such run
and is all that a picture needs. Drawn are return and gain per round: the mean over the seeds, and a band from
the lowest seed to the highest, in those rounds that every seed has. Levels of policies that were not trained
are horizontal lines. Runs with other settings than the first, the seed aside, are refused.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esper.leyline import EsperError, JsonValue, canonical_hash
from esper.nissa import compute_training_summary, curves_to_plain, is_training, read_run
from esper.runtime import read_run_info
from study_rows import Row, check_rows, count, number, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES: Mapping[str, str] = MappingProxyType(
    {
        "return": "return per host",
        "gain": "gain over the host that never grows",
    }
)
"""What is drawn, from top to bottom, and the words beside its axis."""
OF_NO_CONSEQUENCE = frozenset({"seed", "telemetry", "checkpoint", "num_threads"})
"""Settings in which the training seeds of one curve may differ."""
KEPT_FIELDS = (
    "round",
    "num_env_steps",
    *CURVES,
    "fossilize_rate",
    "wait_share",
    "op_entropy",
    "explained_variance",
    "time_explained_variance",
)
"""What a row keeps of every round."""

_LINE, _INK = "#0072b2", "#333333"
_LEVEL_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of Okabe and Ito (2008)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A curve over several seeds, in the rounds that every seed has a value of."""

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What a policy that was not trained comes to."""

    name: str
    value: float


def read_source(path: Path) -> list[Row]:
    """Return the rows of a run directory (one) or of a rows file.

    Raises:
        ValueError: If it is no training of a policy, or the rows are refused.
        EsperError: If the run cannot be read.
        OSError: If a file cannot be read.
    """
    return [read_training(path)] if path.is_dir() else read_rows(path)


def read_training(run_dir: Path) -> Row:
    """Return the row of a run that trained a policy.

    Raises:
        ValueError: If it did not, or no round has ended.
        EsperError: If it cannot be read.
        OSError: If a file cannot be read.
    """
    info = read_run_info(run_dir)
    records = read_run(run_dir).records
    curves = compute_training_summary(records).curves
    if not is_training(records) or not curves.rounds:
        raise ValueError(f"{run_dir}: no round of the training of a policy has ended in this run")
    settings = tomllib.loads((run_dir / "config.toml").read_text(encoding="utf-8"))
    rounds = [{name: row[name] for name in KEPT_FIELDS} for row in curves_to_plain(curves)]
    return {
        "arm": info.policy,
        "task": info.task,
        "seed": info.seed,
        "protocol_hash": hash_settings(settings),
        "rounds": rounds,
    }


def hash_settings(settings: Mapping[str, JsonValue]) -> str:
    """Return 16 hex digits that stand for every setting that all seeds of a curve share."""
    return canonical_hash({k: value for k, value in settings.items() if k not in OF_NO_CONSEQUENCE})[:16]


def compute_band(rows: Sequence[Row], curve: str) -> Band:
    """Return mean, lowest and highest value over the seeds.

    Args:
        rows: One per seed, at least one.
        curve: One of `CURVES`.

    Raises:
        ValueError: If there is no round that every seed has a value of.
    """
    by_seed = [_values(row, curve) for row in rows]
    shared = sorted(set.intersection(*(set(values) for values in by_seed)))
    if not shared:
        raise ValueError(f"no round in which all {len(rows)} seeds have a {curve}")
    columns = [[values[place] for values in by_seed] for place in shared]
    return Band(
        rounds=tuple(shared),
        mean=tuple(statistics.fmean(column) for column in columns),
        low=tuple(min(column) for column in columns),
        high=tuple(max(column) for column in columns),
    )


def _values(row: Row, curve: str) -> dict[int, float]:
    rounds = row["rounds"]
    assert isinstance(rounds, list)
    return {
        int(each["round"]): float(each[curve])
        for each in rounds
        if each[curve] is not None and math.isfinite(each[curve])
    }


def draw_curves(rows: Sequence[Row], levels: Mapping[str, Sequence[Level]]) -> bytes:
    """Return the picture as SVG: no date, no version, no random name in it.

    Args:
        rows: One per seed.
        levels: Curve -> horizontal lines.

    Raises:
        ValueError: If there is no round that every seed has a value of.
    """
    seeds = sorted(int(number(row, "seed")) for row in rows)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's own style says
        # Names inside the file come from the salt, text stays text: no clock and no chance has a part in it.
        matplotlib.rcParams.update(
            {"svg.hashsalt": "esper-lite", "svg.fonttype": "none", "text.parse_math": False}
        )
        figure = Figure(figsize=(7.5, 6.0), facecolor="white", layout="constrained")
        panels = figure.subplots(len(CURVES), 1, sharex=True)
        names = sorted({level.name for found in levels.values() for level in found})
        bands = {curve: compute_band(rows, curve) for curve in CURVES}
        for axes, curve in zip(panels, CURVES, strict=True):
            _draw_panel(axes, curve, bands[curve], seeds)
            _draw_levels(axes, levels.get(curve, ()), names)
            axes.legend(loc="best", fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")
        panels[-1].set_xlabel(_name_rounds(rows, bands), color=_INK)
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(_title(rows, seeds), fontsize=11, color=_INK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _title(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    named = ", ".join(map(str, seeds))
    return f"{rows[0]['arm']} on {rows[0]['task']}, training seed{'s' if len(seeds) > 1 else ''} {named}"


def _name_rounds(rows: Sequence[Row], bands: Mapping[str, Band]) -> str:
    """Say so where some seed has rounds that are not drawn."""
    is_whole = all(len(band.rounds) == count(row, "rounds") for band in bands.values() for row in rows)
    return "round" if is_whole else "round (only those that every seed has)"


def _draw_panel(axes: Axes, curve: str, band: Band, seeds: Sequence[int]) -> None:
    label = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    marker = "o" if len(band.rounds) <= 60 else None
    axes.plot(band.rounds, band.mean, color=_LINE, linewidth=1.7, marker=marker, markersize=3, label=label)
    if len(seeds) > 1:
        axes.fill_between(
            band.rounds,
            band.low,
            band.high,
            color=_LINE,
            alpha=0.2,
            linewidth=0,
            label="lowest to highest seed",
        )
    axes.set_ylabel(CURVES[curve], color=_INK)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.tick_params(colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_levels(axes: Axes, levels: Sequence[Level], names: Sequence[str]) -> None:
    """Draw lines; a name has the same colour in every panel."""
    for level in levels:
        axes.axhline(
            level.value,
            color=_LEVEL_COLOURS[names.index(level.name) % len(_LEVEL_COLOURS)],
            linewidth=1.3,
            linestyle="--",
            label=f"{level.name} ({level.value:+.4f})",
        )


def parse_level(text: str) -> Level:
    """Return the level of a text such as "heuristic=0.031".

    Raises:
        ValueError: If it is not of that form, or the number is not finite.
    """
    name, equals, value = text.partition("=")
    if not name or not equals or not math.isfinite(float(value)):
        raise ValueError(f"level {text!r}: expected NAME=NUMBER, such as heuristic=0.031")
    return Level(name=name, value=float(value))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as benchmarks/results holds them, by seed."""
    ordered = sorted(rows, key=lambda row: number(row, "seed"))
    lines = [json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in ordered]
    path.write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and keep the rows where asked to."""
    parser = argparse.ArgumentParser(description="Draw learning curves over several training seeds.")
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="run directory or rows file")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.svg")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="write what was drawn as rows, too")
    for curve in CURVES:
        parser.add_argument(
            f"--{curve}-level",
            type=parse_level,
            action="append",
            default=[],
            metavar="NAME=NUMBER",
            help=f"{curve} of a policy that was not trained; may be repeated",
        )
    arguments = parser.parse_args(argv)
    levels = {"return": arguments.return_level, "gain": arguments.gain_level}
    try:
        rows = [row for source in arguments.sources for row in read_source(source)]
        check_rows(rows, "the sources")
        picture = draw_curves(rows, levels)
        if arguments.rows is not None:
            write_rows(arguments.rows, rows)
        arguments.output.write_bytes(picture)
    except (ValueError, EsperError, OSError) as error:
        parser.error(str(error))
    print(f"wrote {arguments.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
