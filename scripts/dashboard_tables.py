"""The table of docs/performance.md on an attached dashboard, from rows of benchmarks/dashboard_attached.py.

```
ratio   median epoch of a watched run over that of the run alone with the same seed, round by round
```
"""

from __future__ import annotations

from collections.abc import Sequence

from performance_rows import Row, compute_spread, pair_ratios
from study_rows import number, show_table

CPU_TARGET = 1.02
"""Nothing of a dashboard runs in the training's process; what is left is a shared cache and memory."""
CLOCKS = {"cpu": "CPU time of the training's process", "wall": "wall time"}


def read_rounds(rows: Sequence[Row], clock: str) -> tuple[list[float], list[float]]:
    """Return seconds alone and watched, round by round.

    Raises:
        ValueError: If a round lacks one of them.
    """
    found: dict[str, dict[int, float]] = {"alone": {}, "watched": {}}
    for row in rows:
        found[str(row["way"])][int(number(row, "round"))] = number(row, clock)
    alone, watched = found["alone"], found["watched"]
    if sorted(alone) != sorted(watched):
        raise ValueError(f"rounds alone {sorted(alone)}, watched {sorted(watched)}: each needs both")
    order = sorted(alone)
    return [alone[each] for each in order], [watched[each] for each in order]


def build_attached(rows: Sequence[Row]) -> str:
    """Return what an epoch costs alone and watched."""
    lines = []
    for clock, title in CLOCKS.items():
        alone, watched = read_rounds(rows, clock)
        ratio = compute_spread(pair_ratios(watched, alone))
        verdict = "met" if ratio.median <= CPU_TARGET else "missed"
        target = f"<= {CPU_TARGET:.2f}, {verdict}" if clock == "cpu" else "-"
        before, after = (compute_spread([1e3 * each for each in side]).show() for side in (alone, watched))
        lines.append(
            {
                "of an epoch": title,
                "alone, ms": before,
                "watched, ms": after,
                "watched over alone": ratio.show(3),
                "target": target,
                "rounds": str(len(alone)),
            }
        )
    return show_table(lines)
