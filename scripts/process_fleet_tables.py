"""The tables of docs/performance.md on fleets in worker processes, from rows of benchmarks/process_fleet.py.

```
over bare     wall time of an epoch over that of the bare loops beside it, host after host
gain          wall time of the serial fleet's epoch over that of the one beside it
```
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from performance_rows import Row, compute_spread, numbers, pair_ratios
from study_rows import show_table

BARE = {"bare_many": "bare loops, {} threads", "bare_one": "bare loops, 1 thread"}
FLEETS = {
    "serial": "serial fleet",
    "process": "process fleet",
    "fused": "fused fleet",
    "fused_process": "fused process fleet",
}
IN_ONE_PROCESS = (*BARE, "serial", "fused")
GAIN_TARGET = 1.7
BARE_TARGET = 0.63
TARGETED = "cifar"
"""Where the bare loops have a target: dormant slots alone, because a host that grows does other work."""
Ways = Mapping[str, Mapping[str, object]]


def read_ways(row: Row) -> Ways:
    """Return way -> what its epochs took.

    Raises:
        ValueError: If the row has none.
    """
    ways = row["ways"]
    if not isinstance(ways, Mapping):
        raise ValueError(f"row of task {row['task']}: ways is no object")
    return ways


def compute_wall_ratios(ways: Ways, above: str, below: str) -> list[float]:
    """Return the ratios of wall times of epochs that stood side by side."""
    return pair_ratios(numbers(ways[above]["wall"]), numbers(ways[below]["wall"]))


def name_way(way: str, row: Row) -> str:
    """Return a way as the page calls it."""
    return {**BARE, **FLEETS}[way].format(row["bare_threads"])


def build_process_times(rows: Sequence[Row]) -> str:
    """Return one line per way of each case."""
    lines = []
    for row in rows:
        ways, hosts = read_ways(row), int(str(row["num_hosts"]))
        for name, way in ((name, ways[name]) for name in (*BARE, *FLEETS) if name in ways):
            wall, cpu = numbers(way["wall"]), numbers(way["cpu"])
            peak = float(str(way["peak_mib"]))
            beside = {
                f"over {BARE[bare].format(row['bare_threads'])}": (
                    compute_spread(compute_wall_ratios(ways, name, bare)).show() if bare in ways else "-"
                )
                for bare in BARE
            }
            busy = f"{statistics.median(pair_ratios(cpu, wall)):.2f}" if name in IN_ONE_PROCESS else "-"
            lines.append(
                {
                    "task": str(row["task"]),
                    "hosts": str(hosts),
                    "policy": str(row["policy"]),
                    "way": name_way(name, row),
                    "wall s per epoch": f"{statistics.median(wall):.3f}",
                    "ms per host": f"{1e3 * statistics.median(wall) / hosts:,.1f}",
                    **beside,
                    "gain over the serial fleet": compute_spread(
                        compute_wall_ratios(ways, "serial", name)
                    ).show(),
                    "CPU s over wall s": busy,
                    "processes": str(way["processes"]),
                    "peak MiB": f"{peak:,.0f}",
                    "MiB per host": f"{peak / hosts:.1f}",
                }
            )
    return show_table(lines)


def build_process_targets(rows: Sequence[Row]) -> str:
    """Return the ratios that have a target."""
    lines = []
    for row in rows:
        ways = read_ways(row)
        found = [("serial", "process", f">= {GAIN_TARGET:.2f}")]
        if row["task"] == TARGETED and "bare_many" in ways:
            found += [(name, "bare_many", f"<= {BARE_TARGET:.2f}") for name in ("process", "fused_process")]
        for above, below, target in found:
            ratios = compute_wall_ratios(ways, above, below)
            spread = compute_spread(ratios)
            limit = float(target[3:])
            is_met = spread.median >= limit if target[0] == ">" else spread.median <= limit
            lines.append(
                {
                    "task": str(row["task"]),
                    "hosts": str(row["num_hosts"]),
                    "policy": str(row["policy"]),
                    "ratio of wall time": f"{name_way(above, row)} / {name_way(below, row)}",
                    "median [quartiles]": spread.show(),
                    "epochs": str(len(ratios)),
                    "target": target,
                    "": "met" if is_met else "**missed**",
                }
            )
    return show_table(lines)
