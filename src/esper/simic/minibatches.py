"""How rows of a rollout are dealt into minibatches: whole rows, each once per epoch, alike on all ranks."""

from __future__ import annotations

import torch

from esper.leyline import Collective, ConfigError
from esper.simic.config import PPOConfig

MOST_BY_ITSELF = 8
"""Minibatches that are made where the settings leave their number open, if there are rows enough."""


def count_minibatches(ppo: PPOConfig, num_rows: int, collective: Collective) -> int:
    """Return how many minibatches every rank makes of its rows; every rank must ask.

    Args:
        ppo: Settings; without a number there, one per row of the rank with the fewest, at most eight.
        num_rows: Of this rank, >= 1.
        collective: Of all ranks.

    Raises:
        ConfigError: If a rank has fewer rows than that, or the one and only step leaves nothing for
            `target_kl` to stop.
    """
    fewest = -int(collective.all_max([-float(num_rows)])[0])
    count = ppo.num_minibatches
    if count is None:
        count = min(MOST_BY_ITSELF, fewest)
    elif count > fewest:
        raise ConfigError(
            f"ppo.num_minibatches={count}: a minibatch holds whole rows, and there are {fewest}; use at most "
            f"{fewest}, or more environments"
        )
    if count * ppo.epochs == 1 and ppo.target_kl > 0:
        raise ConfigError(
            f"ppo.target_kl={ppo.target_kl} cannot act: one row and ppo.epochs=1 make one step; use "
            "epochs >= 2, more environments, or target_kl=0"
        )
    return count


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
