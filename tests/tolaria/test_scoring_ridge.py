"""Claims about the cross-validated ridge: exact, unbiased on noise, right on a planted signal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from esper.tolaria.scoring_ridge import (
    RIDGE,
    Regression,
    compute_effective_rank,
    compute_gain,
    compute_moments,
    cross_validate_gain,
    fit_ridge,
)

Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ridge_by_hand(rows: Matrix, targets: Matrix, num_samples: int) -> tuple[Matrix, Matrix]:
    """W and M of rows [n, p] and targets [n, C] of some samples."""
    covariance, cross = rows.T @ rows / num_samples, rows.T @ targets / num_samples
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    return np.linalg.solve(covariance + ridge * np.eye(len(covariance)), cross), cross


def gain_by_hand(rows: Tensor, targets: Tensor) -> float:
    """The gain of [B, Q, p] and [B, Q, C], in numpy."""
    half = rows.shape[0] // 2
    fits = []
    for part in (slice(0, half), slice(half, None)):
        chosen = rows[part].numpy(), targets[part].numpy()
        flat = [array.reshape(-1, array.shape[-1]) for array in chosen]
        fits.append(ridge_by_hand(flat[0], flat[1], len(chosen[0])))
    (first, first_cross), (second, second_cross) = fits
    return float((first * second_cross).sum() + (second * first_cross).sum()) / 2


@pytest.mark.parametrize("num_samples", [40, 41])
def test_the_gain_equals_a_direct_ridge_in_numpy(num_samples: int) -> None:
    rows, targets = draw(num_samples, 3, 5, seed=1), draw(num_samples, 3, 4, seed=2)
    targets = targets + rows @ draw(5, 4, seed=3)
    assert cross_validate_gain(Regression(rows=rows, targets=targets)) == pytest.approx(
        gain_by_hand(rows, targets), rel=1e-10
    )


def test_weighted_channels_equal_one_numpy_ridge_each() -> None:
    rows, factors, gradient = draw(60, 2, 4, seed=1), draw(60, 2, 3, seed=2), draw(60, 2, 3, seed=3)
    gradient = gradient + factors * (rows @ draw(4, 3, seed=4))
    weighted = Regression(rows=rows, targets=factors * gradient, weights=factors**2)
    by_hand = sum(
        gain_by_hand(rows * factors[..., place : place + 1], gradient[..., place : place + 1])
        for place in range(3)
    )
    assert cross_validate_gain(weighted) == pytest.approx(by_hand, rel=1e-10)


def test_weights_of_one_change_nothing() -> None:
    rows, targets = draw(50, 2, 4, seed=1), draw(50, 2, 3, seed=2)
    plain = Regression(rows=rows, targets=targets)
    ones = Regression(rows=rows, targets=targets, weights=torch.ones_like(targets))
    assert cross_validate_gain(ones) == pytest.approx(cross_validate_gain(plain), rel=1e-10)


@pytest.mark.parametrize(("num_samples", "width"), [(2048, 128), (2048, 576)])
def test_in_sample_the_share_of_pure_noise_is_p_over_n_and_held_out_it_is_nothing(
    num_samples: int, width: int
) -> None:
    rows = draw(num_samples, 1, width, seed=5, dtype=torch.float32)
    targets = draw(num_samples, 1, 16, seed=6, dtype=torch.float32)
    regression = Regression(rows=rows, targets=targets)
    energy = float(targets.square().sum()) / num_samples
    moments = compute_moments(regression, slice(0, num_samples))
    in_sample = compute_gain(fit_ridge(moments), moments) / energy
    assert in_sample == pytest.approx(width / num_samples, abs=0.01)
    assert abs(cross_validate_gain(regression) / energy) < 0.02


@pytest.mark.parametrize("num_samples", [512, 2048, 4096])
def test_a_planted_share_is_recovered_held_out(num_samples: int) -> None:
    rows = draw(num_samples, 1, 128, seed=7, dtype=torch.float32)
    signal = rows @ draw(128, 32, seed=8, dtype=torch.float32) / 128**0.5
    targets = 0.206**0.5 * signal + 0.794**0.5 * draw(num_samples, 1, 32, seed=9, dtype=torch.float32)
    energy = float(targets.square().sum()) / num_samples
    share = cross_validate_gain(Regression(rows=rows, targets=targets)) / energy
    true_share = 0.206 * float(signal.square().sum()) / num_samples / energy
    assert share == pytest.approx(true_share, abs=0.02)


def test_many_features_are_mixed_into_the_width_asked_for() -> None:
    regression = Regression(rows=draw(30, 2, 40, seed=1), targets=draw(30, 2, 3, seed=2))
    narrow = regression.projected(8, torch.Generator().manual_seed(0))
    again = regression.projected(8, torch.Generator().manual_seed(0))
    assert narrow.rows.shape == (30, 2, 8)
    assert torch.equal(narrow.rows, again.rows)
    assert regression.projected(40, torch.Generator()) is regression
    assert narrow.num_flops < regression.num_flops


def test_a_projection_keeps_a_signal_of_few_directions() -> None:
    latent = draw(2048, 1, 6, seed=1, dtype=torch.float32)
    rows = latent @ draw(6, 300, seed=2, dtype=torch.float32)
    targets = latent @ draw(6, 4, seed=3, dtype=torch.float32)
    energy = float(targets.square().sum()) / 2048
    narrow = Regression(rows=rows, targets=targets).projected(64, torch.Generator().manual_seed(1))
    assert cross_validate_gain(narrow) / energy > 0.97


def test_features_that_are_zero_explain_nothing_and_broken_ones_are_nan() -> None:
    targets = draw(20, 1, 3, seed=1)
    dead = Regression(rows=torch.zeros(20, 1, 4, dtype=torch.float64), targets=targets)
    assert cross_validate_gain(dead) == 0.0
    broken = Regression(rows=torch.full((20, 1, 4), math.inf, dtype=torch.float64), targets=targets)
    assert math.isnan(cross_validate_gain(broken))


def test_the_bill_is_the_hand_computed_integer() -> None:
    rows, targets = torch.zeros(10, 2, 3), torch.zeros(10, 2, 5)
    plain = Regression(rows=rows, targets=targets)
    assert plain.num_flops == 2 * 20 * 3 * (3 + 5) + 2 * (2 * 27 // 3 + 2 * 9 * 5)
    weighted = Regression(rows=rows, targets=targets, weights=targets)
    assert weighted.num_flops == 2 * 20 * 3 * (15 + 5) + 2 * (5 * 2 * 27 // 3 + 2 * 9 * 5)


def test_the_effective_rank_counts_directions_in_use() -> None:
    full = torch.eye(8, dtype=torch.float64).repeat(10, 1)
    assert compute_effective_rank(full) == pytest.approx(1.0)
    half = full.clone()
    half[:, 4:] = 0.0
    assert compute_effective_rank(half) == pytest.approx(0.5)
    assert compute_effective_rank(torch.zeros(10, 8)) == 0.0
