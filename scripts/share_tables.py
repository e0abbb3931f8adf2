"""The tables of docs/performance.md on a training's time, from rows of benchmarks/training_shares.py.

Rounds of all seeds together; a pair is the round of either fleet with the same seed and number. Never-grown
lives are trained before the first round and stand apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from performance_rows import Row, Spread, compute_spread, numbers, pair_ratios
from study_rows import show_table

TRAINING, LIVES, UPDATE = "training hosts", "never-grown lives", "PPO update"
BOOKKEEPING = (
    "observing and encoding",
    "masks and policy",
    "applying",
    "beginning and concluding",
    "rewards and buffer",
)
"""Of a rollout, what is neither training hosts nor never-grown lives."""
PARTS = (TRAINING, *BOOKKEEPING, UPDATE, "rest")
"""In the order of the table; the lives have a line of their own."""
SHARE_TARGET = 0.10
CLOCKS = {"wall": "wall time", "cpu": "CPU time"}
Parts = Mapping[str, list[float]]


class Pair(NamedTuple):
    """Seconds of every part by round, of both fleets and one clock."""

    serial: Parts
    fused: Parts


def read_parts(row: Row, clock: str) -> dict[str, list[float]]:
    """Return part -> seconds, round by round.

    Raises:
        ValueError: If the row has none.
    """
    parts = row[clock]
    if not isinstance(parts, Mapping):
        raise ValueError(f"row of fleet {row['fleet']}: {clock} is no object")
    return {str(name): numbers(values) for name, values in parts.items()}


def pair_rounds(rows: Sequence[Row], clock: str) -> Pair:
    """Return the rounds of all seeds, side by side.

    Raises:
        ValueError: If a seed has only one of both fleets.
    """
    pooled: dict[str, dict[str, list[float]]] = {"serial": {}, "fused": {}}
    seeds = sorted({int(str(row["seed"])) for row in rows})
    for kind, parts in pooled.items():
        for seed in seeds:
            found = [row for row in rows if row["fleet"] == kind and row["seed"] == seed]
            if len(found) != 1:
                raise ValueError(f"seed {seed}: expected one row of fleet {kind}, found {len(found)}")
            for part, values in read_parts(found[0], clock).items():
                parts.setdefault(part, []).extend(values)
    return Pair(pooled["serial"], pooled["fused"])


def sum_parts(parts: Parts, names: Sequence[str] | None = None) -> list[float]:
    """Return what some parts took together, round by round; None = all but the never-grown lives."""
    chosen = PARTS if names is None else names
    return [sum(values) for values in zip(*(parts[name] for name in chosen), strict=True)]


def measure_shares(parts: Parts, names: Sequence[str]) -> Spread:
    """Return which part of a round some parts take together."""
    return compute_spread(pair_ratios(sum_parts(parts, names), sum_parts(parts)))


def predict(pair: Pair) -> list[float]:
    """Return by Amdahl, round by round, what the whole gains if only training hosts gains."""
    shares = pair_ratios(pair.serial[TRAINING], sum_parts(pair.serial))
    gains = pair_ratios(pair.serial[TRAINING], pair.fused[TRAINING])
    return [1.0 / ((1.0 - share) + share / gain) for share, gain in zip(shares, gains, strict=True)]


def build_shares(rows: Sequence[Row]) -> str:
    """Return seconds and shares of every part, by wall time, and CPU seconds beside them."""
    wall, cpu = pair_rounds(rows, "wall"), pair_rounds(rows, "cpu")
    lines = []
    names: list[tuple[str, list[str] | None]] = [(name, [name]) for name in PARTS]
    for title, chosen in (*names, ("whole round", None)):
        line = {"part": title}
        for kind, parts, busy in (("serial", wall.serial, cpu.serial), ("fused", wall.fused, cpu.fused)):
            share = "1.00" if chosen is None else f"{measure_shares(parts, chosen).median:.2f}"
            line[f"{kind}, wall s"] = f"{statistics.median(sum_parts(parts, chosen)):.3f}"
            line[f"{kind}, CPU s"] = f"{statistics.median(sum_parts(busy, chosen)):.3f}"
            line[f"{kind}, share"] = share
        ratios = pair_ratios(sum_parts(wall.serial, chosen), sum_parts(wall.fused, chosen))
        line["serial over fused"] = compute_spread(ratios).show()
        lines.append(line)
    lines.append(show_lives(rows))
    return show_table(lines)


def show_lives(rows: Sequence[Row]) -> dict[str, str]:
    """Return the line of the never-grown lives, all of them before the first round."""
    line = {"part": "never-grown lives, once"}
    first: dict[str, list[float]] = {}
    for kind in ("serial", "fused"):
        mine = [row for row in rows if row["fleet"] == kind]
        for clock, title in (("wall", "wall s"), ("cpu", "CPU s")):
            first[clock + kind] = [read_parts(row, clock)[LIVES][0] for row in mine]
            line[f"{kind}, {title}"] = f"{statistics.median(first[clock + kind]):.3f}"
        line[f"{kind}, share"] = "-"
    ratios = pair_ratios(first["wallserial"], first["wallfused"])
    line["serial over fused"] = compute_spread(ratios).show()
    return line


def build_amdahl(rows: Sequence[Row]) -> str:
    """Return what the gain in training hosts should come to and what it came to."""
    lines = []
    for clock, title in CLOCKS.items():
        pair = pair_rounds(rows, clock)
        measured = pair_ratios(sum_parts(pair.serial), sum_parts(pair.fused))
        share = measure_shares(pair.fused, BOOKKEEPING)
        lines.append(
            {
                "by": title,
                "pairs of rounds": str(len(measured)),
                "training hosts, share p of serial": measure_shares(pair.serial, [TRAINING]).show(),
                "their gain s": compute_spread(
                    pair_ratios(pair.serial[TRAINING], pair.fused[TRAINING])
                ).show(),
                "predicted": compute_spread(predict(pair)).show(),
                "measured": compute_spread(measured).show(),
                "measured over predicted": compute_spread(pair_ratios(measured, predict(pair))).show(),
                "acting and bookkeeping, share of fused": share.show(),
                "target": f"<= {SHARE_TARGET:.2f}",
                "": "met" if share.median <= SHARE_TARGET else "**missed**",
                "PPO update, share of fused": measure_shares(pair.fused, [UPDATE]).show(),
            }
        )
    return show_table(lines)
