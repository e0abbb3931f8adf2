"""Learning rates of many rows over one interval, as a table."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from esper.tolaria.fleet.fused.bank import BankRow


def build_rates(rows: Sequence[BankRow], starts: Sequence[int], num_batches: int) -> torch.Tensor:
    """Return [num_batches, R] float64 rates on the CPU, each row's by its own optimiser's closed form.

    Args:
        rows: [R] owners.
        starts: [R] batches that each row's host had finished before the interval.
        num_batches: Of the interval.
    """
    known: dict[Hashable, list[float]] = {}
    columns = []
    for row, start in zip(rows, starts, strict=True):
        facts = (row.optimizer.rate_facts(row.owner), start)
        if facts not in known:
            known[facts] = [
                row.optimizer.learning_rate(row.owner, batch) for batch in range(start, start + num_batches)
            ]
        columns.append(known[facts])
    return torch.tensor(columns, dtype=torch.float64).t().contiguous()
