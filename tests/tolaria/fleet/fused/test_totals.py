"""Sums over batches, worked out by hand."""

from __future__ import annotations

import math

import torch

from esper.tolaria.fleet.fused.totals import BatchNumbers, IntervalTotals


def describe_batch(
    losses: list[float],
    norms: list[float],
    *,
    counted: list[bool],
    stepped: list[bool] | None = None,
    has_gradient: list[bool] | None = None,
) -> BatchNumbers:
    """Return a batch of 8 items per host; each host got 3 of them right."""
    return BatchNumbers(
        losses=torch.tensor(losses),
        metric_sums=torch.full((len(losses),), 3.0),
        norms=torch.tensor(norms),
        is_counted=torch.tensor(counted),
        is_stepped=torch.tensor(counted if stepped is None else stepped),
        has_gradient=torch.tensor([True] * len(norms) if has_gradient is None else has_gradient),
        num_items=8,
    )


def build_totals(*host_of: int, num_hosts: int) -> IntervalTotals:
    """Return totals of rows of one value each."""
    roots = torch.ones(len(host_of), dtype=torch.float64)
    return IntervalTotals(torch.tensor(host_of), roots, num_hosts)


def test_a_skipped_batch_counts_as_skipped_and_in_no_sum() -> None:
    totals = build_totals(0, 1, num_hosts=2)
    totals.add(describe_batch([2.0, 1.0], [0.5, 0.25], counted=[True, True]))
    assert totals.is_sound()
    totals.add(describe_batch([4.0, math.nan], [0.5, math.nan], counted=[True, False]))
    assert not totals.is_sound()
    (first, second), seeds = totals.read()
    assert seeds == []
    assert (first.batch, first.loss_sum, first.metric_sum, first.num_items) == (2, 48.0, 6.0, 16)
    assert (first.norm_sum, first.num_steps, first.num_skipped) == (1.0, 2, 0)
    assert (second.batch, second.loss_sum, second.metric_sum, second.num_items) == (2, 8.0, 3.0, 8)
    assert (second.norm_sum, second.num_steps, second.num_skipped) == (0.25, 1, 1)


def test_a_finite_gradient_of_a_batch_that_taught_nothing_is_a_step_of_the_norm_alone() -> None:
    totals = build_totals(0, num_hosts=1)
    totals.add(describe_batch([1e30], [2.0], counted=[True], stepped=[False]))
    assert not totals.is_sound()
    ((only,), _) = totals.read()
    assert (only.norm_sum, only.num_steps, only.num_skipped, only.num_items) == (2.0, 1, 1, 0)


def test_seeds_are_summed_where_they_were_taught_and_both_gradients_were_finite() -> None:
    totals = build_totals(0, 1, 0, 0, 0, 1, num_hosts=2)
    totals.add(
        describe_batch(
            [1.0, 1.0],
            [0.04, math.nan, 1.0, math.inf, 2.0, 3.0],
            counted=[True, False],
            has_gradient=[True, True, True, True, False, True],
        )
    )
    _, (taught, faulty, untaught, beside_a_faulty_host) = totals.read()
    assert (taught.ratio, taught.norm, taught.num_batches, taught.num_skipped) == (10.0, 1.0, 1, 0)
    assert (faulty.num_batches, faulty.num_skipped) == (0, 1)
    assert (untaught.num_batches, untaught.num_skipped, untaught.norm) == (0, 0, 0.0)
    assert (beside_a_faulty_host.num_batches, beside_a_faulty_host.num_skipped) == (0, 0)


def test_a_ratio_is_of_root_mean_squares_and_adds_up_over_batches() -> None:
    roots = torch.tensor([2.0, 4.0], dtype=torch.float64)
    totals = IntervalTotals(torch.tensor([0, 0]), roots, 1)
    for norm in (1.0, 3.0):
        totals.add(describe_batch([1.0], [4.0, norm], counted=[True]))
    (host,), (seed,) = totals.read()
    assert (seed.ratio, seed.norm, seed.num_batches) == ((0.25 + 0.75) / 2.0, 4.0, 2)
    assert (host.batch, host.norm_sum) == (2, 8.0)


def test_without_a_batch_every_sum_is_zero() -> None:
    (host,), (seed,) = build_totals(0, 0, num_hosts=1).read()
    assert (host.batch, host.num_items, seed.num_batches) == (0, 0, 0)
