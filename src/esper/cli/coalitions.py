"""esper coalitions RUN [--items N] [--orders N] [--json]: what each fossil is worth among the others.

Rebuilds the run's newest network, measures every subset of its fossils on the validation items, each on
normalisation statistics of its own, and shares out what all of them bring (Shapley values, with errors). Of
more than 8 fossils subsets are drawn along random orders. Writes coalitions.json into the run, which
`esper report` shows.

Example: esper coalitions runs/digits-heuristic-0-20260101-120000
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.cli.arguments import CommandParser
from esper.cli.output import Table, write_json, write_tables
from esper.leyline import ExitCode
from esper.nissa import CoalitionTable, format_estimate, format_flops
from esper.runtime.resuming import TRUST_FLAG
from esper.runtime.run_coalitions import NUM_ORDERS, measure_run


def run(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        EsperError: If an argument is wrong, or the run's network cannot be rebuilt.
    """
    parser = CommandParser("coalitions", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "--items", type=int, metavar="N", help="validation items; default: as many as contributions had"
    )
    parser.add_argument(
        "--orders",
        type=int,
        default=NUM_ORDERS,
        metavar="N",
        help=f"random orders where there are more than 8 fossils; default: {NUM_ORDERS}",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of these orders; default: 0")
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        dest="is_code_trusted",
        help="import the code of seeds of your own that the configuration of the run names",
    )
    parser.add_argument("--json", action="store_true", dest="is_json", help="print coalitions.json")
    given = parser.parse_all(args)
    table = measure_run(
        given.run,
        num_items=given.items,
        num_orders=given.orders,
        seed=given.seed,
        is_code_trusted=given.is_code_trusted,
    )
    if given.is_json:
        write_json(table.to_json())
    else:
        write_tables(render_coalitions(table))
    return int(ExitCode.OK)


def render_coalitions(table: CoalitionTable) -> tuple[Table, ...]:
    """Return the shares of the fossils, and what the subsets are worth."""
    how = "every subset" if table.num_orders is None else f"{table.num_orders} random orders"
    share_columns = (
        "slot",
        "seed",
        "blueprint",
        "Shapley value",
        "sampling s.e.",
        "alone",
        "as the last one",
    )
    shares = Table(
        title=f"Shares in {table.quantity} (higher is better): {how}, {table.num_items} validation items, "
        f"{format_flops(sum(table.flops.values()))}",
        columns=share_columns,
        rows=tuple(
            (
                row.slot,
                row.seed_id,
                row.blueprint,
                format_estimate(row.shapley, row.standard_error),
                "exact" if table.num_orders is None else f"{row.sampling_error:.4f}",
                f"{row.alone:+.4f}",
                f"{row.last:+.4f}",
            )
            for row in table.shares
        ),
        empty="no seed was kept",
        numbers=frozenset(share_columns[3:]),
    )
    value_columns = ("fossils that are on", table.quantity, "s.e.")
    values = Table(
        title="Subsets",
        columns=value_columns,
        rows=tuple(
            (", ".join(row.slots) or "none", f"{row.metric:.4f}", f"{row.standard_error:.4f}")
            for row in table.values
        ),
        numbers=frozenset(value_columns[1:]),
    )
    return shares, values
