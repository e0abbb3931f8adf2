"""A host's chain of segments as stacked modules, and the running statistics of its norms by row.

Knows how a pass goes from one segment to the next; what happens in a slot in between is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from esper.kasmina import (
    MorphogeneticModel,
    NormWithStatistics,
    SegmentedHost,
    StackArrangement,
    StackContext,
    Stacked,
    UnstackableError,
    build_stacked,
    count_saved_bytes,
    signature,
)

if TYPE_CHECKING:
    from torch import Tensor

Running = Mapping[str, tuple["Tensor", "Tensor"]]
"""Path of a norm in the host -> running mean and variance, each [R, C], contiguous."""
_FEW_ITEMS = 16
"""So many that activations are larger than what norms keep of a batch."""
NO_RUNNING: Running = MappingProxyType({})


@final
class HostStack:
    """The segments of hosts of one architecture; weights and rows are given with each pass."""

    def __init__(self, model: MorphogeneticModel) -> None:
        """Look at one of the hosts; the others have the same signature.

        Raises:
            UnstackableError: If the host is no chain of segments, or one of them cannot be stacked.
        """
        host = _as_chain(model)
        arrangement = _find_arrangement(host)
        self.arrangement_in = arrangement
        self.segments: list[Stacked] = []
        self.named_segments = host.segments()
        names = []
        for name, module in host.segments():
            stacked = build_stacked(module, arrangement, prefix=name)
            self.segments.append(stacked)
            names.append(name)
            arrangement = stacked.arrangement_out
        self.slot_after = {names.index(model.path(slot_id)): slot_id for slot_id in model.slot_ids}
        """Segment -> the slot behind it."""
        self.segment_of = {slot_id: index for index, slot_id in self.slot_after.items()}
        shape, dtype = model.input_shape, model.input_dtype
        saved = count_saved_bytes(model.host, shape, batch_size=_FEW_ITEMS, dtype=dtype)
        self.item_bytes = max(1, saved.largest // _FEW_ITEMS)
        """Of the largest activation of one item in one host."""

    def slot_before(self, segment: int) -> str:
        """Return the last slot in front of a segment.

        Raises:
            ValueError: If there is none.
        """
        before = [slot_id for slot_id, index in self.segment_of.items() if index < segment]
        if not before:
            raise ValueError(f"segment {segment}: no slot comes before it")
        return before[-1]

    def arrangement_at(self, slot_id: str) -> StackArrangement:
        """Return how features lie at a slot."""
        return self.segments[self.segment_of[slot_id]].arrangement_out

    def run(
        self,
        h: Tensor,
        start: int,
        weights: Callable[[int], Mapping[str, Tensor]],
        context: Callable[[int], StackContext],
        at_slot: Callable[[str, Tensor], Tensor],
    ) -> Tensor:
        """Run the segments from `start` on.

        Args:
            h: What enters the first of them, in its arrangement.
            start: Segment.
            weights: Gives those of a segment's rows.
            context: Gives how a segment is run.
            at_slot: Changes the feature behind a segment where there is a slot; may add rows.

        Returns:
            [R, B, ...] outputs.
        """
        for index in range(start, len(self.segments)):
            h = self.segments[index](h, weights(index), context(index))
            slot_id = self.slot_after.get(index)
            if slot_id is not None:
                h = at_slot(slot_id, h)
        return h


def sign_host(model: MorphogeneticModel) -> Hashable:
    """Return what is equal for hosts that can be rows of one stack.

    Raises:
        UnstackableError: If the host is no chain of segments, or one of them cannot be stacked.
    """
    host = _as_chain(model)
    paths = tuple((slot_id, model.path(slot_id)) for slot_id in model.slot_ids)
    return paths, tuple((name, signature(module)) for name, module in host.segments())


def _as_chain(model: MorphogeneticModel) -> SegmentedHost:
    host = model.host
    if not isinstance(host, SegmentedHost) or not model.has_segments:
        raise UnstackableError(f"{type(host).__name__} is no chain of segments")
    inside = sum(1 for _, module in host.segments() for _ in module.parameters())
    if inside != sum(1 for _ in model.host.parameters()):
        raise UnstackableError(f"{type(host).__name__} has parameters outside its segments")
    return host


def find_norms(host: nn.Module) -> dict[str, NormWithStatistics]:
    """Return a host's norms with running statistics by path."""
    return {
        path: module
        for path, module in host.named_modules()
        if isinstance(module, NormWithStatistics) and module.running_mean is not None
    }


@final
class NormRows:
    """Running statistics of R hosts: copied in, updated by stacked passes, copied back."""

    def __init__(self, hosts: Sequence[nn.Module]) -> None:
        """Copy the statistics of every host."""
        self._norms = [find_norms(host) for host in hosts]
        self.running: dict[str, tuple[Tensor, Tensor]] = {}
        for path in self._norms[0]:
            pairs = [(norms[path].running_mean, norms[path].running_var) for norms in self._norms]
            means, variances = zip(*pairs, strict=True)
            self.running[path] = (torch.stack(means), torch.stack(variances))

    def copy(self) -> list[Tensor]:
        """Return copies of all statistics, for `put_back`."""
        return [part.clone() for pair in self.running.values() for part in pair]

    def put_back(self, saved: Sequence[Tensor], rows: Tensor) -> None:
        """Put back the named rows [R'] of what `copy` returned."""
        parts = (part for pair in self.running.values() for part in pair)
        for part, old in zip(parts, saved, strict=True):
            part[rows] = old[rows]

    def compute_norms(self) -> Tensor | None:
        """Return the L2 norm of each row's statistics [R]; None without any."""
        parts = [part for pair in self.running.values() for part in pair]
        return torch.linalg.vector_norm(torch.cat(parts, dim=1), dim=1) if parts else None

    def write_back(self, rows: Sequence[int], num_batches: Sequence[int]) -> None:
        """Copy statistics to the hosts of some rows, and count the batches that they took in.

        Args:
            rows: Which.
            num_batches: As many: batches to add to the norms' counters.
        """
        for row, count in zip(rows, num_batches, strict=True):
            for path, norm in self._norms[row].items():
                mean, variance = self.running[path]
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(mean[row])
                norm.running_var.copy_(variance[row])
                if norm.num_batches_tracked is not None and count:
                    norm.num_batches_tracked += count


def _find_arrangement(host: SegmentedHost) -> StackArrangement:
    """Return how the first layer takes its inputs: images as maps, whatever else as rows."""
    first = host.segments()[0][1]
    leaf = next(module for module in first.modules() if not list(module.children()))
    return StackArrangement.MAPS if isinstance(leaf, nn.Conv2d) else StackArrangement.ROWS
