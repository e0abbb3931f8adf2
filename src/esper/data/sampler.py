"""The order of the items in an epoch, as a pure function of the instance's seed and the epoch."""

from __future__ import annotations

import torch

from esper.leyline import derive_seed


def epoch_order(seed: int, epoch: int, num_items: int) -> torch.Tensor:
    """Return the shuffled item numbers of one epoch.

    The draw uses a private generator on the CPU, so that it neither reads nor moves the global one and is the
    same for every device.

    Args:
        seed: Seed of the instance, whatever its place in a fleet.
        epoch: Epoch number, from 0.
        num_items: Items in the split.

    Returns:
        [num_items] int64 on the CPU; each item exactly once.

    Example:
        >>> sorted(epoch_order(seed=0, epoch=3, num_items=4).tolist())
        [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(num_items, generator=generator)
