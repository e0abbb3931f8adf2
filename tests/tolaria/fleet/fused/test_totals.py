"""Sums over batches, worked out by hand."""

from __future__ import annotations

import math

import torch

from esper.tolaria.fleet.fused.totals import HostTotals, SeedTotals


def test_a_skipped_batch_counts_as_skipped_and_in_no_sum() -> None:
    totals = HostTotals(2, torch.device("cpu"))
    for losses, is_good in (([2.0, 1.0], True), ([4.0, math.nan], False)):
        totals.add(
            torch.tensor(losses),
            torch.tensor([3.0, 5.0]),
            torch.tensor([0.5, 0.25 if is_good else math.nan]),
            counted=torch.tensor([True, is_good]),
            stepped=torch.tensor([True, is_good]),
            items=8,
        )
    first, second = totals.read(2)
    assert (first.batch, first.loss_sum, first.metric_sum, first.num_items) == (2, 48.0, 6.0, 16)
    assert (first.norm_sum, first.num_steps, first.num_skipped) == (1.0, 2, 0)
    assert (second.batch, second.loss_sum, second.metric_sum, second.num_items) == (2, 8.0, 5.0, 8)
    assert (second.norm_sum, second.num_steps, second.num_skipped) == (0.25, 1, 1)


def test_a_finite_gradient_of_a_batch_that_taught_nothing_is_a_step_of_the_norm_alone() -> None:
    totals = HostTotals(1, torch.device("cpu"))
    totals.add(
        torch.tensor([1e30]),
        torch.tensor([1.0]),
        torch.tensor([2.0]),
        counted=torch.tensor([True]),
        stepped=torch.tensor([False]),
        items=4,
    )
    (only,) = totals.read(1)
    assert (only.norm_sum, only.num_steps, only.num_skipped, only.num_items) == (2.0, 1, 1, 0)


def test_seeds_are_summed_where_they_were_taught_and_both_gradients_were_finite() -> None:
    totals = SeedTotals(4, torch.device("cpu"))
    totals.add(
        torch.tensor([1.0, math.inf, 2.0, 3.0]),
        torch.tensor([25.0, math.inf, 0.5, 0.5]),
        has_gradient=torch.tensor([True, True, False, True]),
        is_counted=torch.tensor([True, True, True, False]),
    )
    taught, faulty, untaught, beside_a_faulty_host = totals.read()
    assert (taught.ratio, taught.norm, taught.num_batches, taught.num_skipped) == (10.0, 1.0, 1, 0)
    assert (faulty.num_batches, faulty.num_skipped) == (0, 1)
    assert (untaught.num_batches, untaught.num_skipped, untaught.norm) == (0, 0, 0.0)
    assert (beside_a_faulty_host.num_batches, beside_a_faulty_host.num_skipped) == (0, 0)
