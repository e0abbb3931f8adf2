"""The best of several teachers per host: what is imitated where no rule is right everywhere.

```
teachers A, B, ... each on hosts 0..E -> one batch each -> per host the row whose episode came to most
```
A rule that grows every host is wrong on hosts that are large enough, one that never grows on the others.
Each host is lived once per teacher and only the better life is kept (the best of N, as in expert iteration:
Anthony et al. 2017). What is best by one noisy life is a little too good; a critic fitted to it is hopeful.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esper.simic.batch_rows import join_batches
from esper.simic.rollout_buffer import RolloutBatch


def choose_best(alternatives: Sequence[RolloutBatch]) -> tuple[RolloutBatch, tuple[int, ...]]:
    """Return per row the alternative whose undiscounted reward is largest, and which one that was.

    A life that did not come to its end (its environment failed) loses against every one that did; of equals
    the first alternative stays.

    Args:
        alternatives: The same hosts in the same rows, lived by one teacher each.

    Raises:
        ValueError: If there is none, or their numbers of rows differ.
    """
    if not alternatives or len({batch.num_rows for batch in alternatives}) != 1:
        sizes = [batch.num_rows for batch in alternatives]
        raise ValueError(f"alternatives hold {sizes} rows: one or more of the same hosts are needed")
    totals = torch.stack([_sum_rewards(batch) for batch in alternatives])
    # argmax takes any of equals; the first is wanted, so that the order of teachers decides.
    is_best = totals == totals.max(dim=0).values
    chosen = tuple(int(row.nonzero()[0]) for row in is_best.T)
    rows = [
        alternatives[which].select(torch.tensor([row], device=totals.device))
        for row, which in enumerate(chosen)
    ]
    return join_batches(rows), chosen


def _sum_rewards(batch: RolloutBatch) -> Tensor:
    """Return [E] sums over valid steps; -inf where no episode ended."""
    steps = batch.steps
    has_ended = (steps.valid & (steps.terminated | steps.truncated)).any(dim=1)
    totals = (steps.reward.double() * steps.valid).sum(dim=1)
    return torch.where(has_ended, totals, torch.full_like(totals, -torch.inf))
