"""Running statistics of norms: read, written back, and estimated anew for the network as it is set now.

They belong to the network with every seed on. Whoever switches a seed off and keeps them measures the norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from esper.kasmina import NormWithStatistics

Statistics = list[tuple[Tensor, Tensor, Tensor]]
"""Running mean, running variance and batch counter of each norm, in module order."""


def read_statistics(norms: Sequence[NormWithStatistics]) -> Statistics:
    """Return copies of every norm's buffers."""
    return [tuple(buffer.clone() for buffer in _buffers(norm)) for norm in norms]  # type: ignore[misc]


def write_statistics(norms: Sequence[NormWithStatistics], statistics: Statistics) -> None:
    """Put back what `read_statistics` returned."""
    for norm, saved in zip(norms, statistics, strict=True):
        for buffer, value in zip(_buffers(norm), saved, strict=True):
            buffer.copy_(value)


@contextmanager
def batch_statistics(norms: Sequence[NormWithStatistics], *, num_batches: int = 1) -> Iterator[None]:
    """Norms use each batch's statistics and take them over: of one batch its own, of several their mean.

    Args:
        norms: In eval mode; back in it afterwards.
        num_batches: Forward passes that will be made, >= 1.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.training = True
        norm.momentum = 1.0 if num_batches == 1 else None
        if num_batches > 1 and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training = False
            norm.momentum = momentum


def _buffers(norm: NormWithStatistics) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, counter = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None
    assert variance is not None
    assert counter is not None
    return mean, variance, counter
