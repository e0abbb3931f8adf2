"""Activations from one arrangement to another, and per-row values in the shape of an activation.

```
to_arrangement      [R, B, C, H, W]  ->  [B, R C, H, W] channels last
channels_to_rows    [B, R C]         ->  [R, B, C], a view
rows_to_channels    [R, B, C]        ->  [B, R C, 1, 1]
spread_over_rows    [R]              ->  what broadcasts over an activation
```
Values per row are repeated to every channel of their row before they meet a map: the innermost loop then
runs over R C values that lie side by side, and not over the few channels of one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.kasmina.stacking.contract import StackArrangement


def to_arrangement(batch: Tensor, arrangement: StackArrangement) -> Tensor:
    """Return a batch of every row's inputs as one activation.

    Args:
        batch: [R, B, C, H, W] for MAPS, [R, B, ...] for ROWS.
        arrangement: ROWS returns the batch itself.

    Raises:
        ValueError: MAPS, if the batch has another rank than 5.

    Example:
        >>> to_arrangement(torch.zeros(3, 4, 2, 8, 8), StackArrangement.MAPS).shape
        torch.Size([4, 6, 8, 8])
    """
    if arrangement is StackArrangement.ROWS:
        return batch
    if batch.dim() != 5:
        raise ValueError(f"a batch of maps is [R, B, C, H, W], got {tuple(batch.shape)}: use ROWS for others")
    # One row merges into the channels without a copy, hence in the memory that the batch has.
    return as_maps(batch.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2))


def as_maps(x: Tensor) -> Tensor:
    """Return a map [B, R C, H, W] in channels-last memory: itself, where it is so already."""
    return x.contiguous(memory_format=torch.channels_last)


def channels_to_rows(x: Tensor, num_rows: int) -> Tensor:
    """Return [B, R C] as [R, B, C]; a view."""
    return x.view(x.shape[0], num_rows, -1).transpose(0, 1)


def rows_to_channels(x: Tensor) -> Tensor:
    """Return [R, B, C] as [B, R C, 1, 1], which broadcasts over the positions of a map."""
    return x.transpose(0, 1).flatten(1)[:, :, None, None]


def repeat_channels(x: Tensor, times: int) -> Tensor:
    """Return a map [B, R C, H, W] with every channel `times` times, copies side by side."""
    num_items, num_wide, height, width = x.shape
    channels = torch.arange(num_wide, device=x.device).repeat_interleave(times)
    flat = x.permute(0, 2, 3, 1).reshape(-1, num_wide).index_select(1, channels)  # [B H W, R C times]
    return flat.view(num_items, height, width, num_wide * times).permute(0, 3, 1, 2)


def pool_map(x: Tensor) -> Tensor:
    """Return the mean over a map's positions, [B, R C].

    Written over [B, H, W, R C], because the gradient of torch's own pooling leaves channels-last memory.
    """
    return x.permute(0, 2, 3, 1).mean(dim=(1, 2))


def map_to_rows(x: Tensor, num_rows: int) -> Tensor:
    """Return a map [B, R C, H, W] as [R, B, C H W], in the order in which torch flattens [C, H, W]."""
    if x.shape[2] == x.shape[3] == 1:
        return channels_to_rows(x.flatten(1), num_rows)
    num_items, num_channels, height, width = x.shape
    rows = x.view(num_items, num_rows, num_channels // num_rows, height, width)
    return rows.transpose(0, 1).flatten(2)


def spread_over_rows(values: Tensor, like: Tensor, arrangement: StackArrangement) -> Tensor:
    """Return one value per row, so that it broadcasts over an activation.

    Args:
        values: [R].
        like: The activation.
        arrangement: Where the activation has its rows.
    """
    if arrangement is StackArrangement.ROWS:
        return values.view(-1, *[1] * (like.dim() - 1))
    return values.repeat_interleave(like.shape[1] // values.shape[0])[None, :, None, None]
