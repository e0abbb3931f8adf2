"""Device copies of splits, and the owned, bounded cache that keeps them.

A storage holds one split on one device, channels first, either as uint8 (normalised after each gather) or as
normalised float32. Both give bit-equal batches; the choice is one of memory and speed. Tokens are kept as
they are and become int64 after each gather. Knows nothing of batches, orders or instances.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, final
from weakref import WeakValueDictionary

import torch

from esper.data.splits import ArraySplit
from esper.leyline import ConfigError, DataError

StorageKind = Literal["auto", "uint8", "float32"]
"""How a split is kept: "uint8" as read, "float32" normalised, "auto" the faster one by size."""

_Kept = Literal["uint8", "float32", "tokens"]

AUTO_FLOAT32_BYTES = 8 << 20
"""Largest normalised copy that "auto" keeps as float32. Measured on one CPU core, batch 128: float32 gathers
in 0.6 of the time up to 8 MiB, equal near 15 MiB, slower from 23 MiB on, where four times the bytes no longer
stay in cache."""

DEFAULT_CACHE_BYTES = 1 << 30
"""Default bound of a cache: every set here fits as uint8 at the same time (cifar10 184 MB, fashion_mnist 55
MB)."""

_STORAGE_KINDS = ("auto", "uint8", "float32")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceStorage:
    """One split on one device, ready to be gathered from."""

    inputs: torch.Tensor
    """[N, C, H, W] or [N, F]; uint8 as read, or float32 normalised; or tokens [N, T] as read."""
    targets: torch.Tensor
    """[N] int64, or tokens [N, T] as read."""
    scale: torch.Tensor
    """[C, 1, 1] or [F] float32: normalised = value * scale + shift; empty for tokens."""
    shift: torch.Tensor
    """Same shape as `scale`, float32."""
    is_normalised: bool
    """Whether `inputs` are normalised already."""

    @property
    def is_tokens(self) -> bool:
        """Whether the items are windows of tokens."""
        return self.targets.dim() == 2

    @property
    def num_items(self) -> int:
        """Rows of the split."""
        return int(self.targets.shape[0])

    @property
    def num_bytes(self) -> int:
        """Bytes of the inputs and targets."""
        return self.inputs.nbytes + self.targets.nbytes

    def label(self, gathered: torch.Tensor) -> torch.Tensor:
        """Return rows taken from `targets` ([...] or [..., T]) as int64."""
        return gathered.to(torch.int64)

    def normalise(self, gathered: torch.Tensor) -> torch.Tensor:
        """Return rows of `inputs` ([..., C, H, W] or [..., F]) as normalised float32, tokens as int64.

        The same two roundings (multiply, add) are made for every storage kind, so that kinds are bit-equal.
        """
        if self.is_tokens:
            return gathered.to(torch.int64)
        if self.is_normalised:
            return gathered
        return gathered.to(torch.float32).mul_(self.scale).add_(self.shift)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKey:
    """What a cached storage is filed under."""

    source: str
    kind: _Kept
    device: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_storage(
    split: ArraySplit,
    *,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    kind: StorageKind = "auto",
) -> DeviceStorage:
    """Copy a split to a device, channels first.

    Args:
        split: What to copy.
        device: Where to.
        mean: Per channel, on the scale of `TaskData.mean`.
        std: Per channel, > 0.
        kind: How to keep it.

    Raises:
        ConfigError: If `kind` is unknown or does not fit the split, or the constants do not fit its channels.

    Example:
        >>> train, _, _ = build_synthetic(SyntheticConfig(num_train=8))
        >>> build_storage(train, device=torch.device("cpu"), mean=[0.0] * 16, std=[1.0] * 16).inputs.shape
        torch.Size([8, 16])
    """
    _check_constants(split, mean, std)
    chosen = resolve_kind(split, kind)
    if chosen == "tokens":
        none = torch.empty(0, device=device)
        tokens, following = split.inputs.to(device), split.targets.to(device)
        return DeviceStorage(inputs=tokens, targets=following, scale=none, shift=none, is_normalised=False)
    is_image = split.inputs.dim() == 4
    inputs = split.inputs.permute(0, 3, 1, 2).contiguous() if is_image else split.inputs
    unit = 255.0 if split.inputs.dtype == torch.uint8 else 1.0
    shape = (-1, 1, 1) if is_image else (-1,)
    scale = torch.tensor([1.0 / (unit * value) for value in std], dtype=torch.float32).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32).view(shape)
    if chosen == "float32":
        # copy=True: a float32 split must not be normalised in place.
        inputs = inputs.to(torch.float32, copy=True).mul_(scale).add_(shift)
    return DeviceStorage(
        inputs=inputs.to(device),
        targets=split.targets.to(device),
        scale=scale.to(device),
        shift=shift.to(device),
        is_normalised=chosen == "float32",
    )


def resolve_kind(split: ArraySplit, kind: StorageKind, max_bytes: int | None = None) -> _Kept:
    """Return the kind that "auto" stands for; the others as they are. Tokens have a kind of their own.

    Args:
        split: The split to be kept.
        kind: What was asked for.
        max_bytes: Bound of the cache, which "auto" also respects; None means no bound.

    Raises:
        ConfigError: If `kind` is unknown, "uint8" is asked for a float32 split, or anything for tokens.
    """
    if kind not in _STORAGE_KINDS:
        raise ConfigError(f"storage={kind!r}: must be one of {', '.join(_STORAGE_KINDS)}")
    if split.is_tokens:
        if kind != "auto":
            raise ConfigError(
                f"storage={kind!r}: the split holds tokens, which are kept as they are; use 'auto'"
            )
        return "tokens"
    if split.inputs.dtype == torch.float32:
        if kind == "uint8":
            raise ConfigError("storage='uint8': the split holds float32; choose 'auto' or 'float32'")
        return "float32"
    if kind != "auto":
        return kind
    limit = AUTO_FLOAT32_BYTES if max_bytes is None else min(AUTO_FLOAT32_BYTES, max_bytes)
    return "float32" if _storage_bytes(split, "float32") <= limit else "uint8"


@final
class DeviceCache:
    """Storages by key, least recently used out first, within a bound in bytes.

    The bound covers what the cache itself keeps. An evicted storage is freed as soon as no iterator uses it.

    Example:
        with DeviceCache(max_bytes=1 << 30) as cache:
            storage = cache.storage(data.train, device=device, mean=data.mean, std=data.std)
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Create an empty cache.

        Args:
            max_bytes: Bound on the sum of all storages, >= 1.

        Raises:
            ConfigError: If `max_bytes` < 1.
        """
        if max_bytes < 1:
            raise ConfigError(f"max_bytes={max_bytes}: must be >= 1, e.g. {DEFAULT_CACHE_BYTES}")
        self._max_bytes = max_bytes
        self._entries: OrderedDict[StorageKey, DeviceStorage] = OrderedDict()
        self._ready: WeakValueDictionary[Hashable, torch.Tensor] = WeakValueDictionary()
        self._num_bytes = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        """Return what another process gets: the storages; what is made of them is made there anew."""
        return {name: value for name, value in vars(self).items() if name != "_ready"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _ready=WeakValueDictionary())

    @property
    def max_bytes(self) -> int:
        """The bound."""
        return self._max_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes kept now; never more than `max_bytes`."""
        return self._num_bytes

    def storage(
        self,
        split: ArraySplit,
        *,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        kind: StorageKind = "auto",
    ) -> DeviceStorage:
        """Return the storage of a split, built on first use.

        Args:
            split: Must carry a `source`, which is its identity here.
            device: Where to keep it.
            mean: Per channel.
            std: Per channel, > 0.
            kind: How to keep it; "auto" also respects the bound.

        Raises:
            ConfigError: If the split has no `source`, or as `build_storage`.
            DataError: If the storage alone exceeds the bound.
            RuntimeError: If the cache is closed.
        """
        if self._is_closed:
            raise RuntimeError("the device cache is closed; create another one")
        if not split.source:
            raise ConfigError(
                "a split without a source cannot be cached: give it a unique source, or pass no cache"
            )
        chosen = resolve_kind(split, kind, self._max_bytes)
        key = StorageKey(
            source=split.source, kind=chosen, device=str(device), mean=tuple(mean), std=tuple(std)
        )
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            return found
        needed = _storage_bytes(split, chosen)
        if needed > self._max_bytes:
            raise DataError(
                f"{split.source}: {needed} bytes as {chosen}; the device cache holds {self._max_bytes}. "
                "Raise its "
                f"bound to at least {needed} or load fewer rows"
            )
        # Evict first: the device may not hold the old and the new storage at the same time.
        while self._num_bytes + needed > self._max_bytes:
            _, evicted = self._entries.popitem(last=False)
            self._num_bytes -= evicted.num_bytes
        given: StorageKind = "auto" if chosen == "tokens" else chosen
        storage = build_storage(split, device=device, mean=mean, std=std, kind=given)
        self._entries[key] = storage
        self._num_bytes += storage.num_bytes
        return storage

    def first_items(
        self,
        split: ArraySplit,
        limit: int | None = None,
        *,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first items of a split, ready for a model; who asks for the same shares one copy.

        It lives as long as somebody holds it, and is not counted in the bound. Nobody may change it.

        Args:
            split: As for `storage`.
            limit: How many, >= 1; None = all.
            device: As for `storage`.
            mean: As for `storage`.
            std: As for `storage`.

        Raises:
            EsperError: As `storage`.
        """
        storage = self.storage(split, device=device, mean=mean, std=std)
        key = (split.source, str(device), tuple(mean), tuple(std), limit)
        inputs = self._ready.get((*key, "inputs"))
        if inputs is None:
            inputs = storage.normalise(storage.inputs[:limit].clone())
            self._ready[*key, "inputs"] = inputs
        targets = self._ready.get((*key, "targets"))
        if targets is None:
            targets = storage.label(storage.targets[:limit])
            self._ready[*key, "targets"] = targets
        return inputs, targets

    def close(self) -> None:
        """Drop every storage; the cache refuses further use. Closing twice is harmless."""
        self._entries.clear()
        self._num_bytes = 0
        self._is_closed = True


def _storage_bytes(split: ArraySplit, kind: _Kept) -> int:
    if kind == "tokens":
        return split.inputs.nbytes + split.targets.nbytes
    return split.inputs.numel() * (4 if kind == "float32" else 1) + split.targets.nbytes


def _check_constants(split: ArraySplit, mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != split.num_channels or len(std) != split.num_channels:
        raise ConfigError(
            f"mean has {len(mean)} and std {len(std)} values; the split has {split.num_channels} channels"
        )
    if not all(math.isfinite(value) for value in mean) or not all(0.0 < value < math.inf for value in std):
        raise ConfigError(f"mean={list(mean)[:8]}, std={list(std)[:8]}: must be finite, and std > 0")
