"""What modules cost, looked up where a module of the same kind was counted before.

Kinds are told apart by the signature of `kasmina.stacking`: types, settings and shapes in one tree. A module
that it does not know is counted every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from esper.kasmina.cost import SavedBytes, count_call_flops, count_flops, count_saved_bytes
from esper.kasmina.hosts.protocol import SegmentedHost
from esper.kasmina.inputs import Inputs
from esper.kasmina.price_book import PriceBook
from esper.kasmina.stacking import UnstackableError, signature


def price_module(
    module: nn.Module, shape: Sequence[int], prices: PriceBook, dtype: torch.dtype = torch.float32
) -> int:
    """Return forward FLOPs per item, as `count_flops`.

    Args:
        module: Any module.
        shape: One item's input shape.
        prices: Where counts are kept.
        dtype: Of the input.

    Raises:
        HostError: As `count_flops`.
    """
    kind = _sign(module)
    if kind is None:
        return count_flops(module, shape, dtype)
    return prices.look_up((kind, tuple(shape), dtype), lambda: count_flops(module, shape, dtype))


def price_host(host: nn.Module, sample: Inputs, prices: PriceBook) -> int:
    """Return a host's forward FLOPs per item, as `count_call_flops`.

    Args:
        host: Any host; only chains of segments are looked up.
        sample: A batch.
        prices: Where counts are kept.

    Raises:
        HostError: As `count_call_flops`.
    """
    kind = _sign_chain(host)
    if kind is None or not isinstance(sample, Tensor):
        return count_call_flops(host, sample)
    facts = ("call", kind, tuple(sample.shape), sample.dtype)
    return prices.look_up(facts, lambda: count_call_flops(host, sample))


def price_items(host: nn.Module, shape: Sequence[int], dtype: torch.dtype, prices: PriceBook) -> int:
    """Return a host's forward FLOPs per item from shapes alone, as `count_flops`.

    Args:
        host: Any host; only chains of segments are looked up.
        shape: One item's input shape.
        dtype: Of the input.
        prices: Where counts are kept.

    Raises:
        HostError: If the forward pass looks at values.

    Example:
        >>> price_items(nn.Linear(3, 2), (3,), torch.float32, PriceBook())
        12
    """
    kind = _sign_chain(host)
    if kind is None:
        return count_flops(host, shape, dtype)
    return prices.look_up(("items", kind, tuple(shape), dtype), lambda: count_flops(host, shape, dtype))


def price_saved(
    module: nn.Module,
    shape: Sequence[int],
    prices: PriceBook,
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> SavedBytes:
    """Return what autograd keeps of a module, as `count_saved_bytes`.

    Args:
        module: A host or a seed; what is neither a chain of segments nor can be stacked is not looked up.
        shape: One item's input shape.
        prices: Where counts are kept.
        batch_size: Items, >= 1.
        dtype: Of the input.

    Raises:
        HostError: If the forward pass looks at values.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> price_saved(net, (3,), PriceBook(), batch_size=4).total
        32
    """
    kind = _sign_chain(module) if isinstance(module, SegmentedHost) else _sign(module)
    if kind is None:
        return count_saved_bytes(module, shape, batch_size=batch_size, dtype=dtype)

    def look_up(part: str) -> int:
        def count() -> int:
            saved = count_saved_bytes(module, shape, batch_size=batch_size, dtype=dtype)
            return saved.total if part == "total" else saved.largest

        return prices.look_up(("saved", part, kind, tuple(shape), batch_size, dtype), count)

    return SavedBytes(total=look_up("total"), largest=look_up("largest"))


def _sign(module: nn.Module) -> Hashable | None:
    try:
        return signature(module)
    except UnstackableError:
        return None


def _sign_chain(host: nn.Module) -> Hashable | None:
    if not isinstance(host, SegmentedHost):
        return None
    try:
        return type(host), tuple((name, signature(module)) for name, module in host.segments())
    except UnstackableError:
        return None
