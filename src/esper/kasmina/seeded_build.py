"""Build a module from a seed without moving anybody's random stream.

The one place that may seed the global generators: layer constructors draw from them and take no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_CPU_SEED_BITS = 32


@contextmanager
def seeded_streams(seed: int) -> Iterator[None]:
    """Seed the global streams of torch for a block, and put them back bit for bit afterwards.

    The CPU generator keeps 32 bits of its seed, so both halves of the 63 are mixed into them. CUDA streams
    take part once CUDA is in use; a block that never touched CUDA must not start it, nor queue a seed for it.

    Args:
        seed: In [0, 2**63).
    """
    folded = (seed ^ (seed >> _CPU_SEED_BITS)) & ((1 << _CPU_SEED_BITS) - 1)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(folded)
        if devices:
            torch.cuda.manual_seed_all(folded)
        yield


def build_seeded(build: Callable[[], ModuleT], seed: int) -> ModuleT:
    """Return `build()` with its weights drawn from a seed in [0, 2**63); global streams stay as they were.

    Example:
        >>> first, second = (build_seeded(lambda: torch.nn.Linear(2, 2), 7) for _ in range(2))
        >>> first.weight.equal(second.weight)
        True
    """
    with seeded_streams(seed):
        return build()
