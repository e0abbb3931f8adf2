"""Sums over the batches of an interval for many rows at once, read out once at its end."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from esper.tolaria.epoch import EpochProgress, SlotTotals

_LARGEST_RATIO = 10.0


@final
class HostTotals:
    """What `EpochProgress` sums, [R] each; float64, as Python's numbers are."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        """Start at 0."""
        self._sums = torch.zeros(6, num_rows, dtype=torch.float64, device=device)

    def add(
        self,
        losses: Tensor,
        metric_sums: Tensor,
        norms: Tensor,
        *,
        counted: Tensor,
        stepped: Tensor,
        items: int,
    ) -> None:
        """Add one batch.

        Args:
            losses: [R] mean losses.
            metric_sums: [R] sums over items.
            norms: [R] gradient norms.
            counted: [R] whether the host's gradient was finite.
            stepped: [R] whether the batch was learned from.
            items: Of the batch.
        """
        taken = stepped.double()
        zero = torch.zeros((), dtype=torch.float64, device=losses.device)
        self._sums += torch.stack(
            (
                torch.where(stepped, losses.double() * items, zero),
                torch.where(stepped, metric_sums.double(), zero),
                taken * items,
                torch.where(counted, norms.double(), zero),
                counted.double(),
                1.0 - taken,
            )
        )

    def read(self, num_batches: int) -> list[EpochProgress]:
        """Return each row's progress after `num_batches`."""
        columns = self._sums.t().tolist()  # sync: once an interval
        return [
            EpochProgress(
                batch=num_batches,
                loss_sum=loss,
                metric_sum=metric,
                num_items=int(items),
                norm_sum=norm,
                num_steps=int(steps),
                num_skipped=int(skipped),
            )
            for loss, metric, items, norm, steps, skipped in columns
        ]


@final
class SeedTotals:
    """What `SlotTotals` sums for the seeds of one bank, [G] each."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        """Start at 0."""
        self._sums = torch.zeros(4, num_rows, dtype=torch.float64, device=device)

    def add(self, norms: Tensor, ratios: Tensor, *, has_gradient: Tensor, is_counted: Tensor) -> None:
        """Add one batch.

        Args:
            norms: [G] gradient norms.
            ratios: [G] root mean squares over the host's.
            has_gradient: [G] whether the seed was taught.
            is_counted: [G] whether the host's gradient was finite.
        """
        is_finite = norms.isfinite()
        taken = has_gradient & is_finite & is_counted
        zero = torch.zeros((), dtype=torch.float64, device=norms.device)
        self._sums += torch.stack(
            (
                torch.where(taken, ratios.double().clamp(max=_LARGEST_RATIO), zero),
                torch.where(taken, norms.double(), zero),
                taken.double(),
                (has_gradient & ~is_finite).double(),
            )
        )

    def read(self) -> list[SlotTotals]:
        """Return each seed's totals."""
        columns = self._sums.t().tolist()  # sync: once an interval
        return [
            SlotTotals(ratio=ratio, norm=norm, num_batches=int(count), num_skipped=int(skipped))
            for ratio, norm, count, skipped in columns
        ]
