"""The table of docs/performance.md on telemetry profiles, from rows of benchmarks/telemetry.py.

A ratio is that of the time of a block of epochs under a profile to that of the same block under minimal,
which ran beside it and computed the same. Blocks, because not everything is measured in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

from performance_rows import Row, compute_spread, numbers, pair_ratios
from study_rows import number, show_table

TARGETS = {"standard": 1.01, "diagnostic": 1.10}
BASE = "minimal"


def add_blocks(values: Sequence[float], length: int) -> list[float]:
    """Return sums of blocks of values; what is left over makes no block.

    Raises:
        ValueError: If there is no whole block.
    """
    blocks = [sum(values[start : start + length]) for start in range(0, len(values) - length + 1, length)]
    if not blocks:
        raise ValueError(f"{len(values)} epochs make no block of {length}")
    return blocks


def build_profiles(rows: Sequence[Row]) -> str:
    """Return what every profile costs on every host, beside its target."""
    bases = {str(row["host"]): row for row in rows if row["profile"] == BASE}
    lines = []
    for row in rows:
        host, profile, base = str(row["host"]), str(row["profile"]), bases[str(row["host"])]
        length = int(number(row, "block_epochs"))
        cpu, wall = numbers(row["cpu"]), numbers(row["wall"])
        spreads = [
            compute_spread(pair_ratios(add_blocks(mine, length), add_blocks(numbers(base[clock]), length)))
            for clock, mine in (("wall", wall), ("cpu", cpu))
        ]
        target = TARGETS.get(profile)
        is_met = target is not None and spreads[1].median <= target
        lines.append(
            {
                "host": f"{host}, {number(row, 'host_params'):,.0f} parameters, {row['device']}",
                "profile": profile,
                "CPU ms per step": f"{sum(cpu) / len(cpu) / number(row, 'num_batches') * 1e3:.2f}",
                "CPU time over minimal": "1" if profile == BASE else spreads[1].show(3),
                "wall time over minimal": "1" if profile == BASE else spreads[0].show(3),
                "blocks": str(len(add_blocks(cpu, length))),
                "target": "-" if target is None else f"<= {target:.2f}",
                "": "" if target is None else "met" if is_met else "**missed**",
            }
        )
    return show_table(lines)
