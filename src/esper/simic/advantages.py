"""Advantages and returns of a rollout (generalised advantage estimation, Schulman et al. 2016), and its sums.

```
delta_t = r_t + gamma (1 - terminated_t) Vnext_t - V_t
A_t     = delta_t + gamma lambda (1 - done_t) A_{t+1}        done = terminated or truncated
R_t     = A_t + V_t
```
All values are on the raw scale of the rewards: no normaliser is known here. Shapes: E rows, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from esper.leyline import Collective
from esper.simic.interfaces import Bootstrap


class RowSteps(NamedTuple):
    """What happened in E rows of T steps, as far as advantages depend on it."""

    reward: Tensor
    """[E, T]."""
    terminated: Tensor
    """[E, T] bool: the task ended with the step; nothing follows."""
    truncated: Tensor
    """[E, T] bool: the episode was abandoned after the step."""
    valid: Tensor
    """[E, T] bool: a real transition."""
    episode_start: Tensor
    """[E, T] bool: the step is the first of its episode."""


class Advantages(NamedTuple):
    """Estimates for E rows of T steps; 0 where a step is not valid."""

    advantage: Tensor
    """[E, T]."""
    returns: Tensor
    """[E, T] raw-scale targets of the critic."""


def compute_next_values(value: Tensor, truncated: Tensor, bootstrap: Bootstrap) -> Tensor:
    """Return [E, T] raw values of the observations that followed each step.

    Inside an episode that is the value of the next step; where a step was truncated, the value of its final
    observation; at the end of the row, the value of the pending observation.

    Args:
        value: [E, T] raw.
        truncated: [E, T] bool.
        bootstrap: Values of final and pending observations.
    """
    following = torch.cat([value[:, 1:], bootstrap.last_value[:, None].to(value.dtype)], dim=1)
    return torch.where(truncated, bootstrap.next_value.to(value.dtype), following)


def compute_gae(
    value: Tensor, next_value: Tensor, steps: RowSteps, *, gamma: float, gae_lambda: float
) -> Advantages:
    """Return advantages and returns.

    A step that is not valid gets 0 and passes nothing back: the step before it ends its trace there, and
    bootstraps from the value of the observation that it led to unless it was terminated. What such steps
    hold, NaN included, changes nothing.

    Args:
        value: [E, T] raw value of the observation that each step was decided from.
        next_value: [E, T] raw value of the observation that followed; ignored where terminated.
        steps: Rewards and flags.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
    """
    done = steps.terminated | steps.truncated
    goes_on = torch.zeros_like(done)
    goes_on[:, :-1] = ~done[:, :-1] & ~steps.episode_start[:, 1:]
    followed = torch.where(steps.terminated, torch.zeros_like(next_value), next_value)
    zero = torch.zeros_like(value)
    delta = torch.where(steps.valid, steps.reward.to(value.dtype) + gamma * followed - value, zero)
    decay = gamma * gae_lambda * goes_on.to(value.dtype)
    advantage = torch.empty_like(value)
    trace = zero[:, 0]
    for t in reversed(range(value.shape[1])):
        trace = torch.where(steps.valid[:, t], delta[:, t] + decay[:, t] * trace, zero[:, t])
        advantage[:, t] = trace
    return Advantages(advantage, torch.where(steps.valid, advantage + value, zero))


def compute_explained_variance(
    returns: tuple[float, float, float], residuals: tuple[float, float, float]
) -> float:
    """Return 1 - Var(R - V) / Var(R): 1 is a perfect critic, 0 one that predicts a constant.

    Args:
        returns: Count, sum and sum of squares of the returns.
        residuals: The same of returns minus values.

    Returns:
        NaN if there are no returns or they do not vary: then nothing could have been explained.
    """
    count, total, squares = returns
    if count < 1:
        return float("nan")
    spread = squares / count - (total / count) ** 2
    if spread <= 1e-12 * max(1.0, squares / count):
        return float("nan")
    _, miss, miss_squares = residuals
    return 1.0 - max(0.0, miss_squares / count - (miss / count) ** 2) / spread


def compute_value_slope(
    returns: tuple[float, float, float],
    values: tuple[float, float, float],
    residuals: tuple[float, float, float],
) -> float:
    """Return cov(R, V) / var(V), the slope of returns over values: 1 = calibrated.

    The covariance comes from var(R - V) = var(R) + var(V) - 2 cov(R, V), so that sums of ranks suffice.

    Args:
        returns: Count, sum and sum of squares of the returns.
        values: The same of the values.
        residuals: The same of returns minus values.

    Returns:
        NaN if there are no values or they do not vary.
    """
    count = values[0]
    if count < 1:
        return float("nan")
    spreads = [squares / count - (total / count) ** 2 for _, total, squares in (returns, values, residuals)]
    if spreads[1] <= 1e-9 * max(1e-12, values[2] / count):
        return float("nan")
    return (spreads[0] + spreads[1] - spreads[2]) / (2.0 * spreads[1])


def compute_normalization(sums: Mapping[str, float]) -> tuple[float, float]:
    """Return what advantages are reduced by and divided by: their mean, and unbiased deviation + 1e-8.

    Below two values nothing can be said about their spread, and nothing is changed: (0, 1).

    Args:
        sums: Over the learnable steps of all ranks: their number "learn", "advantage", "advantage_squares".
    """
    count, total = sums["learn"], sums["advantage"]
    if count < 2:
        return 0.0, 1.0
    mean = total / count
    variance = max(0.0, sums["advantage_squares"] - total * mean) / (count - 1)
    return mean, math.sqrt(variance) + 1e-8


def choose_normalization(
    mode: str, totals: Mapping[str, float], *, return_scale: float
) -> tuple[float, float] | None:
    """Return the normalisation that all minibatches share; None if each has its own.

    "rollout" makes the smallest differences of a quiet round as loud as the largest of another; "returns"
    keeps their proportion over rounds (DreamerV3 scales by returns for this reason: Hafner et al. 2023).

    Args:
        mode: "rollout", "minibatch", "returns" or "none".
        totals: Sums over the rollout, as `compute_normalization` takes them.
        return_scale: Deviation of returns over the rollouts so far, > 0.
    """
    if mode == "rollout":
        return compute_normalization(totals)
    if mode == "returns":
        return 0.0, return_scale
    return None if mode == "minibatch" else (0.0, 1.0)


def merge_rows(rows: Sequence[Sequence[float]], collective: Collective, *, is_ordered: bool) -> list[float]:
    """Return the sum over all rows of all ranks, per column; every rank must call it.

    Args:
        rows: [E][K] numbers per environment, E >= 1; E may differ between ranks.
        collective: The ranks.
        is_ordered: Send every row and round once at the end, so that the result does not depend on how rows
            lie on ranks; else each rank sends its own sum.
    """
    if not is_ordered:
        return collective.all_sum([_sum(column) for column in zip(*rows, strict=True)])
    num_columns = len(rows[0])
    most = int(collective.all_max([float(len(rows))])[0])
    table = [0.0] * (collective.world_size * most * num_columns)
    start = collective.rank * most * num_columns
    flat = [number for row in rows for number in row]
    table[start : start + len(flat)] = flat
    table = collective.all_sum(table)
    return [_sum(table[column::num_columns]) for column in range(num_columns)]


def _sum(numbers: Sequence[float]) -> float:
    """Return the exactly rounded sum; of non-finite numbers what plain addition gives."""
    add: Callable[[Sequence[float]], float] = math.fsum if all(map(math.isfinite, numbers)) else sum
    return add(numbers)


@final
class RowTable:
    """Sums per row of a rollout, read from the device once; all later counts are arithmetic on the host.

    Example:
        RowTable({"learn": batch.learn}, collective).totals(is_ordered=False)["learn"]
    """

    def __init__(
        self, columns: Mapping[str, Tensor], collective: Collective, *, squared: Sequence[str] = ()
    ) -> None:
        """Read the columns and sum each row in float64.

        Args:
            columns: Name -> [E, T], bool or floating; the same names on every rank.
            collective: The ranks that sums go over.
            squared: Names of columns of which "<name>_squares" is summed as well.
        """
        self._names = (*columns, *(f"{name}_squares" for name in squared))
        self._collective = collective
        widest = torch.float64 if any(x.dtype is torch.float64 for x in columns.values()) else torch.float32
        stacked = torch.stack([column.to(widest) for column in columns.values()])
        wide = stacked.cpu().double()  # sync: once per update
        squares = [wide[list(columns).index(name)].square() for name in squared]
        self._rows: list[list[float]] = torch.stack([*wide, *squares]).sum(dim=-1).T.tolist()

    def totals(self, *, is_ordered: bool) -> dict[str, float]:
        """Return the sums over all rows of all ranks, by name; every rank must call it."""
        sums = merge_rows(self._rows, self._collective, is_ordered=is_ordered)
        return dict(zip(self._names, sums, strict=True))

    def group_totals(self, groups: Sequence[Sequence[int]]) -> list[dict[str, float]]:
        """Return one table of sums per group of rows, each over the group's rows on all ranks.

        Args:
            groups: Row numbers of this rank; as many groups on every rank. One exchange for all of them.
        """
        size = len(self._names)
        local = [sum(self._rows[row][k] for row in rows) for rows in groups for k in range(size)]
        sums = self._collective.all_sum(local)
        return [dict(zip(self._names, sums[k : k + size], strict=True)) for k in range(0, len(sums), size)]
