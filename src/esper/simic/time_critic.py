"""A critic that sees the remaining time and nothing else: what a real one must be better than.

In an episode of fixed length returns shrink with the time that is left, so that even a clock explains some of
their variance. It predicts the mean return of its step over the rounds so far, the present one left out.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

MEMORY = 0.8
"""Weight of the past rounds: about the last five count."""
_LEAST_VARIANCE = 1e-12


@final
class TimeCritic:
    """One number per step.

    Example:
        critic = TimeCritic(40)
        critic.learn(returns, valid)
        critic.explain(next_returns, next_valid)
    """

    def __init__(self, num_steps: int) -> None:
        """Know nothing yet.

        Args:
            num_steps: T of the rollouts, >= 1.
        """
        self.means = torch.full((num_steps,), torch.nan, dtype=torch.float64)
        """[T] float64 predicted return; NaN where no step was seen."""

    def explain(self, returns: Tensor, valid: Tensor) -> float | None:
        """Return 1 - Var(return - prediction) / Var(return) over the valid steps.

        Args:
            returns: [E, T'] raw scale, T' <= T.
            valid: [E, T'] bool.

        Returns:
            At most 1; None where nothing was learned yet or returns do not vary.
        """
        count = returns.shape[1]
        predicted = self.means[:count].expand(returns.shape)
        known = valid.cpu() & ~predicted.isnan()
        targets = returns.detach().cpu().double()[known]
        if targets.numel() < 2 or float(targets.var()) < _LEAST_VARIANCE:
            return None
        return float(1.0 - (targets - predicted[known]).var() / targets.var())

    def learn(self, returns: Tensor, valid: Tensor) -> None:
        """Move each step's prediction towards the mean of this round; shapes as in `explain`."""
        weights = valid.cpu().double()
        counts = weights.sum(dim=0)
        sums = (returns.detach().cpu().double() * weights).sum(dim=0)
        seen = counts > 0
        fresh = sums / counts.clamp(min=1.0)
        old = self.means[: len(fresh)]
        blended = torch.where(old.isnan(), fresh, MEMORY * old + (1.0 - MEMORY) * fresh)
        self.means[: len(fresh)] = torch.where(seen, blended, old)
