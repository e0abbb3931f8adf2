"""A critic that sees the remaining time and nothing else: what a real one must be better than.

In an episode of fixed length returns shrink with the time that is left, so that even a clock explains some of
their variance. It predicts the mean return of its step over the rounds so far, the present one left out.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from esper.leyline import Collective, SingleProcess

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

    def __init__(self, num_steps: int, collective: Collective | None = None) -> None:
        """Know nothing yet.

        Args:
            num_steps: T of the rollouts, >= 1.
            collective: Ranks whose rows count alike; None = this process alone.
        """
        self._collective = SingleProcess() if collective is None else collective
        self.means = torch.full((num_steps,), torch.nan, dtype=torch.float64)
        """[T] float64 predicted return; NaN where no step was seen."""

    def explain(self, returns: Tensor, valid: Tensor) -> float | None:
        """Return 1 - Var(return - prediction) / Var(return) over the valid steps; every rank must ask.

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
        misses = targets - predicted[known]
        number, *sums = self._collective.all_sum(
            [float(targets.numel()), float(targets.sum()), float(misses.sum())]
        )
        if number < 2:
            return None
        means = [total / number for total in sums]
        spread, missed = self._collective.all_sum(
            [float((x - mean).square().sum()) for x, mean in zip((targets, misses), means, strict=True)]
        )
        return None if spread / (number - 1) < _LEAST_VARIANCE else 1.0 - missed / spread

    def learn(self, returns: Tensor, valid: Tensor) -> None:
        """Move each step's prediction towards the mean of this round; every rank must; see `explain`."""
        weights = valid.cpu().double()
        sums = (returns.detach().cpu().double() * weights).sum(dim=0)
        # Ranks whose rollouts were cut short have fewer columns; what they lack counts nothing.
        columns = torch.zeros(2, len(self.means), dtype=torch.float64)
        columns[0, : len(sums)], columns[1, : len(sums)] = weights.sum(dim=0), sums
        total = torch.tensor(self._collective.all_sum(columns.flatten().tolist()), dtype=torch.float64)
        counts, sums = total.reshape(columns.shape)
        seen = counts > 0
        fresh = sums / counts.clamp(min=1.0)
        old = self.means
        blended = torch.where(old.isnan(), fresh, MEMORY * old + (1.0 - MEMORY) * fresh)
        self.means = torch.where(seen, blended, old)
