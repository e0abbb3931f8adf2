"""Batches for one or many host instances out of one shared storage.

    epoch_order (per instance) -> slice of batch i -> gather rows -> augment -> normalise -> Batch

A batch is a pure function of (instance seed, epoch, batch index): an epoch can be resumed at any batch, and
what an instance sees does not depend on how many others there are. Knows nothing of models or of how epochs
are run.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, final

import torch

from esper.data.augment import AugmentConfig, augment_seed, compute_augmented
from esper.data.device_cache import DeviceCache, StorageKind, build_storage
from esper.data.sampler import epoch_order
from esper.data.splits import ArraySplit
from esper.leyline import ConfigError


class Batch(NamedTuple):
    """Rows of one batch, with a leading [E] where it serves several instances."""

    inputs: torch.Tensor
    """[B, C, H, W] or [B, F] float32, normalised, or tokens [B, T] int64; contiguous; [E, B, ...] from
    `batch`."""
    targets: torch.Tensor
    """[B] int64, or [B, T] the token after each; [E, B, ...] from `batch`."""
    indices: torch.Tensor
    """[B] or [E, B] int64: row of each item in the split."""


@final
class SharedBatchIterator:
    """Deals a split to E instances in batches, each instance in its own order.

    Every item comes exactly once per epoch. The last batch may be short; a last batch of exactly one item is
    merged into the one before it, because batch normalisation cannot train on one item.

    With `epoch_batches` an epoch is so many batches instead, wherever they end: passes over the split follow
    each other, each in an order of its own, in full batches only. What is left over at the end of a pass is
    passed over in it. Every epoch then has the same number of items.

    Example:
        batches = SharedBatchIterator(
            data.train, [7], 128, device=torch.device("cpu"), mean=data.mean, std=data.std
        )
        for index in range(batches.num_batches):
            inputs, targets, _ = batches.row(0, index, 0)
    """

    __slots__ = (
        "_augment",
        "_batch_size",
        "_epoch_batches",
        "_fill",
        "_fixed_order",
        "_num_items",
        "_orders",
        "_pass_batches",
        "_seeds",
        "_shares_rows",
        "_storage",
    )

    def __init__(  # noqa: PLR0913 - the facts of one data stream; each is read here and nowhere else
        self,
        split: ArraySplit,
        instance_seeds: Sequence[int],
        batch_size: int,
        *,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        augment: AugmentConfig | None = None,
        epoch_batches: int | None = None,
        is_shuffled: bool = True,
        shares_order: bool = False,
        storage: StorageKind = "auto",
        cache: DeviceCache | None = None,
    ) -> None:
        """Put the split on the device, or take it from the cache.

        Args:
            split: The items.
            instance_seeds: One seed per instance, E >= 1 of them.
            batch_size: Items per batch and instance, >= 1.
            device: Where the storage lies and the batches appear.
            mean: Per channel, on the scale of `TaskData.mean`.
            std: Per channel, > 0.
            augment: Crop and flip of each batch; None leaves the images as they are. Images only.
            epoch_batches: Batches of one epoch, >= 1; None = one pass over the split.
            is_shuffled: False keeps the order of the split in every epoch, for evaluation.
            shares_order: True deals every instance the order of the first one; for benchmarks.
            storage: "uint8", "float32" or "auto"; batches are bit-equal.
            cache: Keeps the storage for others; None keeps it for this iterator only.

        Raises:
            ConfigError: If there is no seed, `batch_size` or `epoch_batches` < 1, `augment` is given for what
                is no image, or as `build_storage`.
            DataError: If the cache cannot hold the split.
        """
        if not instance_seeds:
            raise ConfigError("instance_seeds is empty: give one seed per instance, at least one")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be >= 1, e.g. 128")
        if epoch_batches is not None and epoch_batches < 1:
            raise ConfigError(f"epoch_batches={epoch_batches}: must be >= 1, or None for one pass")
        if augment is not None and split.inputs.dim() != 4:
            raise ConfigError(
                "augment: flat inputs and tokens have no borders to crop and nothing to mirror; use None"
            )
        self._storage = (
            build_storage(split, device=device, mean=mean, std=std, kind=storage)
            if cache is None
            else cache.storage(split, device=device, mean=mean, std=std, kind=storage)
        )
        self._seeds = tuple(instance_seeds)
        self._batch_size = batch_size
        self._epoch_batches = epoch_batches
        self._num_items = split.num_items
        self._pass_batches = _count_batches(split.num_items, batch_size)
        if epoch_batches is not None:
            self._batch_size = min(batch_size, split.num_items)
            self._pass_batches = split.num_items // self._batch_size
            self._num_items = epoch_batches * self._batch_size
        self._augment = augment
        # The border of a crop is black: byte 0, or what 0 becomes once normalised.
        self._fill = self._storage.shift.view(-1) if self._storage.is_normalised else None
        self._shares_rows = shares_order or not is_shuffled or len(self._seeds) == 1
        self._fixed_order = None if is_shuffled else torch.arange(split.num_items, device=device)
        num_orders = 1 if self._shares_rows else len(self._seeds)
        self._orders: list[tuple[int, torch.Tensor] | None] = [None] * num_orders

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return self._pass_batches if self._epoch_batches is None else self._epoch_batches

    @property
    def num_items(self) -> int:
        """Items per epoch and instance."""
        return self._num_items

    @property
    def num_instances(self) -> int:
        """E, the number of instances."""
        return len(self._seeds)

    @property
    def identity(self) -> Hashable:
        """What is equal where two iterators deal the same items in batches of the same sizes."""
        return id(self._storage), self._batch_size, self._epoch_batches, self._num_items, self._augment

    @property
    def is_normalised_storage(self) -> bool:
        """Whether the storage is normalised float32 (faster for small sets) rather than uint8."""
        return self._storage.is_normalised

    def batch(self, epoch: int, index: int) -> Batch:
        """Return batch `index` of `epoch` for all instances, with a leading dimension E.

        Where all instances see the same rows (`shares_order` or not `is_shuffled`, no augmentation), the
        leading dimension is a broadcast view of one gathered batch.

        Args:
            epoch: Epoch, >= 0.
            index: Batch in the epoch, in [0, num_batches).

        Raises:
            IndexError: If `epoch` or `index` is out of its range.
        """
        number, start, stop = self._locate(epoch, index)
        storage, num_instances = self._storage, self.num_instances
        if self._shares_rows:
            indices = self._order(number, 0)[start:stop]
            if self._augment is None or num_instances == 1:
                shared = self._gather(indices, epoch, index, 0)
                return Batch(*(part.expand(num_instances, *part.shape) for part in shared))
            stacked = indices.expand(num_instances, -1)
        else:
            stacked = torch.stack([self._order(number, e)[start:stop] for e in range(num_instances)])
        flat = stacked.reshape(-1)
        rows = storage.inputs.index_select(0, flat).view(*stacked.shape, *storage.inputs.shape[1:])
        if self._augment is not None:
            rows = torch.stack([self._augmented(rows[e], epoch, index, e) for e in range(num_instances)])
        targets = storage.targets.index_select(0, flat).view(*stacked.shape, *storage.targets.shape[1:])
        return Batch(storage.normalise(rows), storage.label(targets), stacked)

    def row(self, epoch: int, index: int, e: int) -> Batch:
        """Return what instance `e` sees as batch `index` of `epoch`, without the leading dimension.

        Equal to row `e` of `batch(epoch, index)`, at the cost of one instance. Always a copy: a host that
        works in place cannot damage the storage.

        Args:
            epoch: Epoch, >= 0.
            index: Batch in the epoch, in [0, num_batches).
            e: Instance, in [0, num_instances).

        Raises:
            IndexError: If an argument is out of its range.
        """
        if not 0 <= e < len(self._seeds):
            raise IndexError(f"instance {e}: must be in [0, {len(self._seeds)})")
        number, start, stop = self._locate(epoch, index)
        return self._gather(self._order(number, e)[start:stop], epoch, index, e)

    def _gather(self, indices: torch.Tensor, epoch: int, index: int, e: int) -> Batch:
        storage = self._storage
        rows = storage.inputs.index_select(0, indices)
        if self._augment is not None:
            rows = self._augmented(rows, epoch, index, e)
        targets = storage.label(storage.targets.index_select(0, indices))
        return Batch(storage.normalise(rows), targets, indices)

    def _augmented(self, rows: torch.Tensor, epoch: int, index: int, e: int) -> torch.Tensor:
        assert self._augment is not None
        seed = augment_seed(self._seeds[e], epoch, index)
        return compute_augmented(rows, self._augment, seed, self._fill)

    def _locate(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Return the pass over the split, and where in its order the batch begins and ends."""
        if epoch < 0:
            raise IndexError(f"epoch {epoch}: must be >= 0")
        if not 0 <= index < self.num_batches:
            raise IndexError(f"batch {index}: must be in [0, {self.num_batches})")
        if self._epoch_batches is not None:
            number, index = divmod(epoch * self._epoch_batches + index, self._pass_batches)
            return number, index * self._batch_size, (index + 1) * self._batch_size
        start = index * self._batch_size
        is_last = index == self._pass_batches - 1
        return epoch, start, self._num_items if is_last else start + self._batch_size

    def _take(self, epoch: int, index: int) -> torch.Tensor:
        """Return the item numbers of the first instance's batch, [B]."""
        number, start, stop = self._locate(epoch, index)
        return self._order(number, 0)[start:stop]

    def _order(self, number: int, e: int) -> torch.Tensor:
        """Return an instance's order of a pass, [N] int64 on the device; the last one asked for is kept."""
        if self._fixed_order is not None:
            return self._fixed_order
        place = 0 if self._shares_rows else e
        kept = self._orders[place]
        if kept is not None and kept[0] == number:
            return kept[1]
        items = self._storage.num_items
        order = epoch_order(self._seeds[place], number, items).to(self._storage.targets.device)
        self._orders[place] = (number, order)
        return order


@final
class StackedBatches:
    """What the first instances of R iterators see in one epoch of each, batch by batch, stacked.

    Iterators that share a storage are served by one gather.

    Example:
        StackedBatches([run.batches for run in runs], epochs=[3, 3, 0]).batch(0).inputs.shape  # [3, B, ...]
    """

    def __init__(self, iterators: Sequence[SharedBatchIterator], epochs: Sequence[int]) -> None:
        """Look up the orders.

        Args:
            iterators: R of them, with batches of one size.
            epochs: [R] epoch of each.
        """
        self._iterators, self._epochs = tuple(iterators), tuple(epochs)
        first = iterators[0]
        self._storage = first._storage
        self._is_shared = all(i._storage is first._storage and i._augment is None for i in iterators)
        # Where an epoch is one pass, its batches are neighbours in one order.
        self._is_one_pass = first._epoch_batches is None
        self._orders: torch.Tensor | None = None
        if self._is_shared and self._is_one_pass:
            pairs = zip(iterators, epochs, strict=True)
            self._orders = torch.stack([iterator._order(epoch, 0) for iterator, epoch in pairs])

    def batch(self, index: int) -> Batch:
        """Return [R, B, ...], equal to the iterators' `row(epoch, index, 0)` one under the other.

        Args:
            index: Batch in the epoch.

        Raises:
            IndexError: As `SharedBatchIterator.row`.
        """
        pairs = zip(self._iterators, self._epochs, strict=True)
        if not self._is_shared:
            rows = [iterator.row(epoch, index, 0) for iterator, epoch in pairs]
            return Batch(*(torch.stack(parts) for parts in zip(*rows, strict=True)))
        if self._orders is not None:
            _, start, stop = self._iterators[0]._locate(self._epochs[0], index)
            indices = self._orders[:, start:stop].contiguous()
        else:
            indices = torch.stack([iterator._take(epoch, index) for iterator, epoch in pairs])
        storage, flat = self._storage, indices.view(-1)
        inputs = storage.inputs.index_select(0, flat).view(*indices.shape, *storage.inputs.shape[1:])
        targets = storage.targets.index_select(0, flat).view(*indices.shape, *storage.targets.shape[1:])
        return Batch(storage.normalise(inputs), storage.label(targets), indices)


def _count_batches(num_items: int, batch_size: int) -> int:
    """Return ceil(N / B), one less where the last batch would hold one item and another comes before it."""
    full, rest = divmod(num_items, batch_size)
    if rest == 0:
        return full
    return full if rest == 1 and full > 0 else full + 1
