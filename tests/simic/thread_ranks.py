"""Ranks as threads of one process, without torch.distributed: what they agree on is added in rank order."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ThreadRanks:
    """Ranks that are threads of this process; sums in rank order."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=60)
        self._sent: list[list[float]] = [[] for _ in range(world_size)]
        self._gradients: list[list[Tensor]] = [[] for _ in range(world_size)]

    def rank(self, rank: int) -> ThreadRank:
        return ThreadRank(self, rank)

    def exchange(self, rank: int, values: Sequence[float]) -> list[list[float]]:
        self._sent[rank] = list(values)
        self._barrier.wait()
        everything = [list(sent) for sent in self._sent]
        self._barrier.wait()
        return everything

    def mean_gradients(self, rank: int, parameters: Sequence[nn.Parameter]) -> None:
        assert all(p.grad is not None for p in parameters)
        self._gradients[rank] = [p.grad.clone() for p in parameters if p.grad is not None]
        self._barrier.wait()
        for k, parameter in enumerate(parameters):
            parameter.grad = torch.stack([mine[k] for mine in self._gradients]).mean(dim=0)
        self._barrier.wait()


class ThreadRank:
    """One of them, as the learner sees it."""

    def __init__(self, ranks: ThreadRanks, rank: int) -> None:
        self._ranks, self._rank = ranks, rank

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._ranks._world_size

    def all_sum(self, values: Sequence[float]) -> list[float]:
        return [sum(column) for column in zip(*self._ranks.exchange(self._rank, values), strict=True)]

    def all_max(self, values: Sequence[float]) -> list[float]:
        return [max(column) for column in zip(*self._ranks.exchange(self._rank, values), strict=True)]

    def broadcast(self, values: Sequence[float]) -> list[float]:
        return self._ranks.exchange(self._rank, values)[0]

    def all_agree(self, digest: str) -> bool:
        return True

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [bytes(int(x) for x in sent) for sent in self._ranks.exchange(self._rank, list(data))]
