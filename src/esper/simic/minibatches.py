"""How rows of a rollout are dealt into minibatches: whole rows, each once per epoch.

Minibatches are drawn over the rows of all ranks, and each rank takes part in each of them with those of its
own rows that are in it. So a training does not depend on how many ranks share its rows; the price is that a
rank may have more rows in a minibatch than another, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from esper.leyline import Collective, ConfigError
from esper.simic.config import PPOConfig

MOST_BY_ITSELF = 8
"""Minibatches that are made where the settings leave their number open, if there are rows enough."""


def count_minibatches(ppo: PPOConfig, num_rows: int) -> int:
    """Return into how many minibatches the rows of all ranks are dealt.

    Args:
        ppo: Settings; without a number there, one per row, at most eight.
        num_rows: Of all ranks together, >= 1.

    Raises:
        ConfigError: If there are fewer rows than that, or the one and only step leaves nothing for
            `target_kl` to stop.

    Example:
        >>> count_minibatches(PPOConfig(), num_rows=4), count_minibatches(PPOConfig(), num_rows=64)
        (4, 8)
    """
    count = min(MOST_BY_ITSELF, num_rows) if ppo.num_minibatches is None else ppo.num_minibatches
    if count > num_rows:
        raise ConfigError(
            f"ppo.num_minibatches={count}: a minibatch holds whole rows, and there are {num_rows}; use at "
            f"most {num_rows}, or more environments"
        )
    if count * ppo.epochs == 1 and ppo.target_kl > 0:
        raise ConfigError(
            f"ppo.target_kl={ppo.target_kl} cannot act: one row and ppo.epochs=1 make one step; use "
            "epochs >= 2, more environments, or target_kl=0"
        )
    return count


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MinibatchPlan:
    """Which rows a rank has among those of all ranks.

    Example:
        MinibatchPlan(count=4, first_row=2, num_rows=2, num_total=4)  # the second of two ranks
    """

    count: int
    """Minibatches, >= 1."""
    first_row: int
    """Place of this rank's first row among all."""
    num_rows: int
    """Rows of this rank, >= 1."""
    num_total: int
    """Rows of all ranks."""

    def draw(self, generator: torch.Generator) -> list[list[int]]:
        """Return this rank's rows in each minibatch of one epoch; some may be empty.

        Args:
            generator: Of the order, in the same state on every rank.
        """
        groups = draw_groups(self.num_total, self.count, generator)
        own = range(self.first_row, self.first_row + self.num_rows)
        return [[row - self.first_row for row in group if row in own] for group in groups]


def plan_minibatches(ppo: PPOConfig, num_rows: int, collective: Collective) -> MinibatchPlan:
    """Return the plan of this rank; every rank must ask.

    Args:
        ppo: Settings.
        num_rows: Of this rank, >= 1.
        collective: Of all ranks.

    Raises:
        ConfigError: See `count_minibatches`.
    """
    mine = [float(num_rows) if rank == collective.rank else 0.0 for rank in range(collective.world_size)]
    counts = [int(number) for number in collective.all_sum(mine)]
    return MinibatchPlan(
        count=count_minibatches(ppo, sum(counts)),
        first_row=sum(counts[: collective.rank]),
        num_rows=num_rows,
        num_total=sum(counts),
    )


def draw_groups(num_rows: int, count: int, generator: torch.Generator) -> list[list[int]]:
    """Return the rows of each minibatch; sizes differ by at most one and are the same in every epoch.

    Args:
        num_rows: >= count.
        count: Minibatches, >= 1; with 1 nothing is drawn.
        generator: Of the order.
    """
    if count == 1:
        return [list(range(num_rows))]
    order = torch.randperm(num_rows, generator=generator)
    return [rows.tolist() for rows in torch.tensor_split(order, count)]
