"""What a host costs by itself: its parameters, its forward pass, and of each slot the part that comes after.

Where a host is a chain of segments, the part after a slot is known and can be run alone; of any other host
the whole forward pass is charged, because that is what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.cost import count_trainable
from esper.kasmina.hosts.protocol import SegmentedHost
from esper.kasmina.inputs import Inputs
from esper.kasmina.price_book import PriceBook
from esper.kasmina.pricing import price_host, price_module
from esper.leyline import HostError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """Measured once, when slots are attached."""

    num_params: int
    """Trainable."""
    flops_per_item: int
    """Of one forward pass."""
    tail_flops: Mapping[str, int]
    """Slot -> forward FLOPs per item from there to the end."""
    tails: Mapping[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    """Slot -> the segments after it; empty where the host is no chain."""


def measure_host(
    host: nn.Module, sample: Inputs, paths: Mapping[str, str], prices: PriceBook | None = None
) -> HostCosts:
    """Return what a host costs.

    Args:
        host: On the sample's device; left as it is.
        sample: A batch; only shapes matter.
        paths: Slot -> module path.
        prices: Where counts are kept; None = nowhere.

    Raises:
        HostError: If a slot of a segmented host is at none of its segments.
    """
    prices = PriceBook() if prices is None else prices
    num_params, flops = count_trainable(host), price_host(host, sample, prices)
    whole = dict.fromkeys(paths, flops)
    if not isinstance(host, SegmentedHost) or not isinstance(sample, Tensor):
        return HostCosts(num_params=num_params, flops_per_item=flops, tail_flops=whole)
    names = [name for name, _ in host.segments()]
    segments = tuple(module for _, module in host.segments())
    costs = _segment_flops(segments, sample, prices)
    for slot_id, path in paths.items():
        if path not in names:
            raise HostError(f"slot {slot_id!r}: {path!r} is none of the host's segments {names}")
    starts = {slot_id: names.index(path) + 1 for slot_id, path in paths.items()}
    return HostCosts(
        num_params=num_params,
        flops_per_item=flops,
        tail_flops={slot_id: sum(costs[start:]) for slot_id, start in starts.items()},
        tails={slot_id: segments[start:] for slot_id, start in starts.items()},
    )


def _segment_flops(segments: Sequence[nn.Module], sample: Tensor, prices: PriceBook) -> list[int]:
    costs = []
    modes = [(module, module.training) for segment in segments for module in segment.modules()]
    hidden = sample[:1]
    with torch.no_grad():
        for segment in segments:
            costs.append(price_module(segment, tuple(hidden.shape[1:]), prices, hidden.dtype))
            hidden = segment.eval()(hidden)
    for module, mode in modes:
        module.training = mode
    return costs
