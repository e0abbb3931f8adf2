"""What the batches of an interval gave for many rows at once, summed and read out once at its end.

Batches only leave their tensors here: a sum of a few numbers costs as much as one over a whole interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from esper.tolaria.epoch import EpochProgress, SlotTotals

_LARGEST_RATIO = 10.0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchNumbers:
    """What one batch gave; K rows are those of R hosts, then those of seeds."""

    losses: Tensor
    """[R] mean losses."""
    metric_sums: Tensor
    """[R] sums over items."""
    norms: Tensor
    """[K] gradient norms."""
    is_counted: Tensor
    """[R] whether the host's gradient was finite."""
    is_stepped: Tensor
    """[R] whether the batch was learned from."""
    has_gradient: Tensor
    """[K] whether the row was taught."""
    num_items: int
    """Of each host's batch."""


@final
class IntervalTotals:
    """What `EpochProgress` and `SlotTotals` sum, for all rows; float64, as Python's numbers are."""

    def __init__(self, host_of: Tensor, roots: Tensor, num_hosts: int) -> None:
        """Start without a batch.

        Args:
            host_of: [K] row of each row's host; of the first R, their own.
            roots: [K] square root of the number of values of each row, float64.
            num_hosts: R.
        """
        self._host_of, self._roots, self._num_hosts = host_of, roots, num_hosts
        self._batches: list[BatchNumbers] = []

    def add(self, batch: BatchNumbers) -> None:
        """Add one batch; its tensors must not change afterwards."""
        self._batches.append(batch)

    def is_sound(self) -> bool:
        """Whether every batch was learned from by every host, and every gradient was finite."""
        return bool(self._stack("is_stepped").all() & self._stack("norms").isfinite().all())

    def read(self) -> tuple[list[EpochProgress], list[SlotTotals]]:
        """Return the progress of each host, and the totals of each seed in the order of their rows."""
        if not self._batches:
            num_seeds = len(self._host_of) - self._num_hosts
            return [EpochProgress() for _ in range(self._num_hosts)], [SlotTotals() for _ in range(num_seeds)]
        hosts, seeds = (
            self._sum_hosts().t().tolist(),
            self._sum_seeds().t().tolist(),
        )  # sync: once an interval
        progress = [
            EpochProgress(
                batch=len(self._batches),
                loss_sum=loss,
                metric_sum=metric,
                num_items=int(items),
                norm_sum=norm,
                num_steps=int(steps),
                num_skipped=int(skipped),
            )
            for loss, metric, items, norm, steps, skipped in hosts
        ]
        totals = [
            SlotTotals(ratio=ratio, norm=norm, num_batches=int(count), num_skipped=int(skipped))
            for ratio, norm, count, skipped in seeds
        ]
        return progress, totals

    def _sum_hosts(self) -> Tensor:
        """Return [6, R]: loss, metric, items, norm, steps, batches skipped."""
        stepped, counted = self._stack("is_stepped"), self._stack("is_counted")
        taken = stepped.double()
        items = torch.tensor(
            [batch.num_items for batch in self._batches], dtype=torch.float64, device=taken.device
        )[:, None]
        parts = (
            torch.where(stepped, self._stack("losses").double() * items, 0.0),
            torch.where(stepped, self._stack("metric_sums").double(), 0.0),
            taken * items,
            torch.where(counted, self._stack("norms")[:, : self._num_hosts].double(), 0.0),
            counted.double(),
            1.0 - taken,
        )
        return torch.stack(parts).sum(dim=1)

    def _sum_seeds(self) -> Tensor:
        """Return [4, K - R]: root mean squares over the host's, norms, batches, batches skipped."""
        norms, own = self._stack("norms"), slice(self._num_hosts, None)
        rms = norms.double() / self._roots
        of_host = rms.index_select(1, self._host_of)
        ratios = torch.where(of_host > 0.0, rms / of_host, 0.0)
        is_finite, taught = norms.isfinite(), self._stack("has_gradient")
        taken = taught & is_finite & self._stack("is_counted").index_select(1, self._host_of)
        parts = (
            torch.where(taken, ratios.clamp(max=_LARGEST_RATIO), 0.0),
            torch.where(taken, norms.double(), 0.0),
            taken.double(),
            (taught & ~is_finite).double(),
        )
        return torch.stack(parts)[:, :, own].sum(dim=1)

    def _stack(self, name: str) -> Tensor:
        """Return [batches, rows] of one number."""
        tensors: Sequence[Tensor] = [getattr(batch, name) for batch in self._batches]
        return torch.stack(list(tensors))
