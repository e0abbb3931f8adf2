"""Build a module from a seed without moving anybody's random stream: the one place that may seed the global
generator, because layer constructors draw from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_CPU_SEED_BITS = 32


def build_seeded(build: Callable[[], ModuleT], seed: int) -> ModuleT:
    """Return `build()` with its weights drawn from a seed in [0, 2**63).

    The CPU generator keeps 32 bits of its seed, so both halves of the 63 are mixed into them. The global
    streams are as before afterwards.
    """
    folded = (seed ^ (seed >> _CPU_SEED_BITS)) & ((1 << _CPU_SEED_BITS) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(folded)  # noqa: TID251 - forked; constructors have no generator argument
        return build()
