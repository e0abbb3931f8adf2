"""Gradients to their mean over ranks, and weights to those of rank 0.

```
parameters -> meet (same layout?) -> plan buckets -> flatten -> add over ranks -> divide, copy back
```
The plan comes from the parameters, not from which gradients exist: a rank without a gradient sends zeros, so
that no rank is missing in a sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from esper.leyline import RanksDisagreeError
from esper.runtime.ranks.channel import Channel, Operation

BUCKET_BYTES = 25 * 2**20
"""Largest bucket, but for a single larger parameter; at this size the start of a transfer costs nothing."""


class Bucket(NamedTuple):
    """Parameters whose gradients travel as one flat tensor."""

    parameters: tuple[nn.Parameter, ...]
    dtype: torch.dtype
    """float64 stays float64; everything else travels as float32."""


@final
class MeanGradients:
    """Replaces every gradient by its mean over ranks: a `GradientReduction` of the learner.

    Example:
        LearnerParts(network=network, config=config, seed=0, reduce_gradients=MeanGradients(channel))
    """

    def __init__(self, channel: Channel, *, is_ordered: bool = False) -> None:
        """Take the way to the others.

        Args:
            channel: To the other ranks.
            is_ordered: Add in the order of ranks, by gathering all; costs as many copies as there are ranks.
        """
        self._channel, self._is_ordered = channel, is_ordered

    def __call__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average in place; afterwards every parameter has a gradient, with the same bits on every rank.

        Args:
            parameters: The same ones in the same order on all ranks.

        Raises:
            RanksDisagreeError: If number, shapes or types of the parameters differ between ranks.
            RankFailureError: If a rank did not come.
        """
        layout = [f"{tuple(p.shape)} {_wire_dtype(p)}" for p in parameters]
        _meet(self._channel, Operation.GRADIENTS, layout, length=sum(p.numel() for p in parameters))
        buckets = plan_buckets(parameters)
        flats = add_flats(self._channel, [flatten(bucket) for bucket in buckets], is_ordered=self._is_ordered)
        for bucket, flat in zip(buckets, flats, strict=True):
            copy_back(bucket, flat.div_(self._channel.place.world_size))


def add_flats(channel: Channel, flats: Sequence[Tensor], *, is_ordered: bool) -> list[Tensor]:
    """Return the sums over ranks of flat gradients, with the same bits on every rank; no meeting of its own.

    Args:
        channel: To the other ranks.
        flats: Of the same lengths and types on all ranks; overwritten.
        is_ordered: Add in the order of ranks, by gathering all.
    """
    if not is_ordered:
        channel.add_all(Operation.GRADIENTS, flats)
        return list(flats)
    return [_add_in_order(channel.gather(Operation.GRADIENTS, flat)) for flat in flats]


def _add_in_order(everyone: Sequence[Tensor]) -> Tensor:
    first, *rest = everyone
    for other in rest:
        first += other
    return first


def plan_buckets(parameters: Sequence[nn.Parameter], max_bytes: int = BUCKET_BYTES) -> list[Bucket]:
    """Return the parameters, in order, in buckets of one device and one type each.

    Args:
        parameters: With or without gradients.
        max_bytes: Largest bucket; a larger parameter gets one of its own.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[list[nn.Parameter]]] = {}
    room: dict[tuple[torch.device, torch.dtype], int] = {}
    for parameter in parameters:
        key = (parameter.device, _wire_dtype(parameter))
        size = parameter.numel() * key[1].itemsize
        if key not in groups or size > room[key]:
            groups.setdefault(key, []).append([])
            room[key] = max_bytes
        groups[key][-1].append(parameter)
        room[key] -= size
    return [Bucket(tuple(part), dtype) for (_, dtype), parts in groups.items() for part in parts]


def copy_weights(module: nn.Module, channel: Channel) -> None:
    """Give all ranks the parameters and buffers of rank 0, bit by bit, over the CPU.

    Args:
        module: Of the same layout on all ranks.
        channel: To the other ranks.

    Raises:
        RanksDisagreeError: If names, shapes or types differ between ranks.
        RankFailureError: If a rank did not come.
    """
    copy_tensors([*module.named_parameters(), *module.named_buffers()], channel)


def copy_tensors(named: Sequence[tuple[str, Tensor]], channel: Channel) -> None:
    """Give all ranks rank 0's content of named tensors, bit by bit, in place and over the CPU.

    Args:
        named: Of the same names, shapes and types in the same order on all ranks.
        channel: To the other ranks.

    Raises:
        RanksDisagreeError: If names, shapes or types differ between ranks.
        RankFailureError: If a rank did not come.
    """
    layout = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in named]
    _meet(channel, Operation.MODULE, layout, length=len(named))
    for _, tensor in named:
        if tensor.numel() == 0:
            continue
        # As bytes: gloo knows few types, and a copy of bits cannot round.
        copy = tensor.detach().cpu().contiguous().clone()
        channel.copy_first(Operation.MODULE, copy.reshape(-1).view(torch.uint8))
        with torch.no_grad():
            tensor.copy_(copy)


def _meet(channel: Channel, operation: Operation, layout: Sequence[str], *, length: int) -> None:
    digest = hashlib.sha256("\n".join(layout).encode()).digest()
    if not channel.meet(operation, length=length, digest=digest):
        raise RanksDisagreeError(
            f"{operation.label}: ranks hold tensors of as many numbers, but of other shapes, types or order"
        )


def _wire_dtype(parameter: nn.Parameter) -> torch.dtype:
    return torch.float64 if parameter.dtype is torch.float64 else torch.float32


def flatten(bucket: Bucket) -> Tensor:
    """Return a bucket's gradients as one tensor, a copy; a missing one is zeros."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1).to(bucket.dtype)
            for p in bucket.parameters
        ]
    )


def copy_back(bucket: Bucket, flat: Tensor) -> None:
    """Put the content of a flat tensor in the place of a bucket's gradients; afterwards none is missing."""
    pieces = torch.split(flat, [p.numel() for p in bucket.parameters])
    for parameter, piece in zip(bucket.parameters, pieces, strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(piece.view_as(parameter))
