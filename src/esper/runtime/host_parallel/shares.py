"""Which rows of a batch a rank trains on. Plain numbers only."""

from __future__ import annotations

_LEAST_ROWS = 2
"""Batch normalisation cannot train on one row, so nobody gets a single one of several."""


def deal_rows(num_rows: int, rank: int, world_size: int) -> range:
    """Return the rows of one rank: a run of neighbours, as long as that of any other or one shorter.

    A short batch is dealt to fewer ranks, so that none gets a single row; the others get none and still
    take part in every exchange.

    Args:
        num_rows: Rows of the batch, >= 1.
        rank: In [0, world_size).
        world_size: Number of ranks, >= 1.
    """
    num_takers = max(1, min(world_size, num_rows // _LEAST_ROWS))
    if rank >= num_takers:
        return range(num_rows, num_rows)
    size, rest = divmod(num_rows, num_takers)
    start = rank * size + min(rank, rest)
    return range(start, start + size + (rank < rest))
