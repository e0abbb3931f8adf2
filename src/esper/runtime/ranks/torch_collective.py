"""The agreement between ranks over plain numbers, by gloo: `leyline.Collective` for more than one process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import torch

from esper.runtime.ranks.channel import Channel, Operation


@final
class TorchCollective:
    """Adds, compares and copies numbers in float64; results have the same bits on every rank.

    Example:
        collective.all_sum([1.0, float(num_rows)])
    """

    def __init__(self, channel: Channel) -> None:
        """Take the way to the others."""
        self._channel = channel

    @property
    def rank(self) -> int:
        """This process, in [0, world_size)."""
        return self._channel.place.rank

    @property
    def world_size(self) -> int:
        """Number of processes (>= 1)."""
        return self._channel.place.world_size

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise sum over ranks.

        Raises:
            RanksDisagreeError: If ranks gave unequal lengths, or entered another collective.
            RankFailureError: If a rank did not come.
        """
        self._channel.meet(Operation.ALL_SUM, length=len(values))
        if not values:
            return []
        total = torch.tensor(values, dtype=torch.float64)
        self._channel.add(Operation.ALL_SUM, total)
        return [float(value) for value in total.tolist()]

    def all_max(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise maximum over ranks; NaN on one rank is NaN on all.

        Raises:
            RanksDisagreeError: If ranks gave unequal lengths, or entered another collective.
            RankFailureError: If a rank did not come.
        """
        self._channel.meet(Operation.ALL_MAX, length=len(values))
        if not values:
            return []
        # Gathered, because a maximum taken on the way would keep or lose NaN by the order of the ranks.
        everyone = self._channel.gather(Operation.ALL_MAX, torch.tensor(values, dtype=torch.float64))
        return [float(value) for value in torch.stack(everyone).amax(dim=0).tolist()]

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return rank 0's values; the others give as many, of any content.

        Raises:
            RanksDisagreeError: If ranks gave unequal lengths, or entered another collective.
            RankFailureError: If a rank did not come.
        """
        self._channel.meet(Operation.BROADCAST, length=len(values))
        if not values:
            return []
        copy = torch.tensor(values, dtype=torch.float64)
        self._channel.copy_first(Operation.BROADCAST, copy)
        return [float(value) for value in copy.tolist()]

    def all_agree(self, digest: str) -> bool:
        """Whether every rank passed the same text, of any length.

        Raises:
            RanksDisagreeError: If ranks entered another collective.
            RankFailureError: If a rank did not come.
        """
        return self._channel.meet(Operation.ALL_AGREE, digest=hashlib.sha256(digest.encode()).digest())

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return every rank's data, in the order of the ranks; lengths may differ.

        Everything travels to everyone, filled up to the longest: for states and reports, not for weights.

        Raises:
            RanksDisagreeError: If ranks entered another collective.
            RankFailureError: If a rank did not come.
        """
        self._channel.meet(Operation.GATHER_BYTES)
        lengths = self._channel.gather(Operation.GATHER_BYTES, torch.tensor([len(data)]))
        sizes = [int(length) for length in lengths]
        if max(sizes) == 0:
            return [b""] * len(sizes)
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = self._channel.gather(Operation.GATHER_BYTES, padded)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]
