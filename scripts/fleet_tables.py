"""The table of fleets on docs/performance.md: what a bare stack gains and what of it a fused fleet keeps."""

from __future__ import annotations

from collections.abc import Sequence

from performance_rows import Row
from study_rows import number, show_table


def build_fleets(rows: Sequence[Row]) -> str:
    """Return one line per task and number of hosts."""
    lines = []
    for row in sorted(rows, key=lambda row: (str(row["task"]), number(row, "num_hosts"))):
        lines.append(
            {
                "task": str(row["task"]),
                "hosts": f"{number(row, 'num_hosts'):.0f}",
                "bare loop, us": f"{number(row, 'bare'):,.0f}",
                "bare stack, us": f"{number(row, 'bare_stack'):,.0f}",
                "gain": f"{number(row, 'gain_bare'):.2f}",
                "serial fleet, us": f"{number(row, 'serial'):,.0f}",
                "fused fleet, us": f"{number(row, 'fused'):,.0f}",
                "dormant, us": f"{number(row, 'dormant'):,.0f}",
                "FLOPs": f"{number(row, 'flops'):.2f}x",
                "gain of the fleet": f"{number(row, 'gain_fused'):.2f}",
                "kept": f"{number(row, 'kept'):.2f}",
                "fused, with seeds": f"{number(row, 'fused_share'):.2f}",
                "acting": f"{number(row, 'acting_share'):.2f}",
                "MiB per host": f"{number(row, 'rss_per_host_mib'):.1f}",
            }
        )
    return show_table(lines)
