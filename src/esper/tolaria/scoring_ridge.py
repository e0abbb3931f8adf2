"""How much of a functional gradient features explain: ridge regression on one half, scored on the other.

```
per half    S = E[phi phi^T],  M = E[phi g^T]        sums over positions, mean over samples
fit         W = (S + lam I)^-1 M,  lam = 1e-3 mean(diag S)         delta = -W^T phi
gain        E<g, W^T phi> = tr(W^T M')  with M' of the other half; both directions averaged
```
In its own half a regression of pure noise on p features explains p / N of it, which looks like a signal;
on the other half it explains nothing. The halves are split by sample, because the positions of one image
resemble each other. Knows tensors only: no model, no slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

RIDGE = 1e-3
"""Ridge over the mean diagonal of the features' second moment."""
_TINY = 1e-30


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regression:
    """Features and the gradient that a linear map of them should follow: B samples, Q positions each.

    With weights a the map's output y enters as delta = a y, each element of delta by one channel of y: then
    each channel has a regression of its own, `targets` hold sum(a g) and `weights` sum(a^2).
    """

    rows: Tensor
    """[B, Q, p] features phi."""
    targets: Tensor
    """[B, Q, C] gradient with respect to the map's output, per sample."""
    weights: Tensor | None = None
    """[B, Q, C], >= 0; None = 1 everywhere."""

    def projected(self, width: int, generator: torch.Generator) -> Regression:
        """Return it with random combinations of the features where there are more than `width` of them.

        Args:
            width: Number of features afterwards, >= 1.
            generator: On the CPU; draws the p * width normal factors.
        """
        num_features = self.rows.shape[-1]
        if num_features <= width:
            return self
        factors = torch.randn(num_features, width, generator=generator) / num_features**0.5
        mixed = self.rows @ factors.to(self.rows)
        return Regression(rows=mixed, targets=self.targets, weights=self.weights)

    @property
    def num_flops(self) -> int:
        """FLOPs of `cross_validate_gain`: moments, and an elimination with its solutions per half."""
        num_samples, num_positions, width = self.rows.shape
        num_targets = self.targets.shape[-1]
        num_rows, num_groups = num_samples * num_positions, 1 if self.weights is None else num_targets
        moments = 2 * num_rows * width * (width * num_groups + num_targets)
        solves = 2 * (num_groups * 2 * width**3 // 3 + 2 * width**2 * num_targets)
        return moments + solves


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Second moments of some samples in float64 on the CPU; G = 1, or C where channels have weights."""

    covariance: Tensor
    """[G, p, p]."""
    cross: Tensor
    """[G, p, C / G]."""

    @property
    def is_finite(self) -> bool:
        """Whether every entry is."""
        return bool(self.covariance.isfinite().all()) and bool(self.cross.isfinite().all())


def compute_moments(regression: Regression, samples: slice) -> Moments:
    """Return the moments of some samples: sums over positions, means over samples.

    Args:
        regression: In any floating dtype; products are taken in it.
        samples: Which, at least one.
    """
    rows, targets = regression.rows[samples], regression.targets[samples]
    num_samples = rows.shape[0]
    rows, targets = rows.flatten(0, 1), targets.flatten(0, 1)  # [B Q, p], [B Q, C]
    cross = rows.T @ targets  # [p, C]
    if regression.weights is None:
        covariance, cross = (rows.T @ rows).unsqueeze(0), cross.unsqueeze(0)
    else:
        weights = regression.weights[samples].flatten(0, 1)
        # Channel by channel: all at once would hold B Q C p numbers.
        covariance = torch.stack([(rows * weight.unsqueeze(1)).T @ rows for weight in weights.T])
        cross = cross.T.unsqueeze(-1)
    return Moments(
        covariance=covariance.double().cpu() / num_samples, cross=cross.double().cpu() / num_samples
    )


def fit_ridge(moments: Moments) -> Tensor:
    """Return W = (S + lam I)^-1 M, [G, p, C / G]; 0 for features that are 0 everywhere."""
    covariance = moments.covariance
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    ridge = (RIDGE * diagonal.mean(dim=1)).clamp_min(_TINY)
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    solution: Tensor = torch.linalg.solve(covariance + ridge[:, None, None] * eye, moments.cross)
    return solution


def compute_gain(weights: Tensor, moments: Moments) -> float:
    """Return E<g, W^T phi> per sample, for W fitted on these samples or on others."""
    return float((weights * moments.cross).sum())


def cross_validate_gain(regression: Regression) -> float:
    """Return the gain of each half under the fit of the other, averaged; NaN if a number is not finite.

    Args:
        regression: At least 2 samples, in random order.

    Returns:
        Energy per sample that the features explain, in the unit of E|g|^2; about 0 where there is nothing,
        and as often below as above it.
    """
    half = regression.rows.shape[0] // 2
    parts = [compute_moments(regression, part) for part in (slice(0, half), slice(half, None))]
    if not all(part.is_finite for part in parts):
        return float("nan")
    first, second = parts
    return 0.5 * (compute_gain(fit_ridge(first), second) + compute_gain(fit_ridge(second), first))


def compute_effective_rank(features: Tensor) -> float:
    """Return exp(entropy of the eigenvalues of E[h h^T]) / d, in [0, 1]; 0 where all is 0.

    Roy and Vetterli 2007 (effective rank); Maile et al. 2022 (NORTH*) use it to tell full layers.

    Args:
        features: [N, d], finite.
    """
    moment = (features.T @ features).double().cpu()
    values = torch.linalg.eigvalsh(moment).clamp_min(0.0)
    total = values.sum()
    if float(total) <= 0.0:
        return 0.0
    shares = values / total
    entropy = -torch.special.xlogy(shares, shares).sum()
    return float(entropy.exp()) / features.shape[1]
