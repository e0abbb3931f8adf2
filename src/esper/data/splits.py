"""What a data set is once it is read: three parts, the constants that normalise them, and its credits.

Also the two pure rules that every reader shares: which rows a fixed subset holds, and how the constants are
computed. Knows nothing of files, devices or batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import final

import torch

from esper.leyline import ConfigError, DataError

TOKEN_TYPES = (torch.uint8, torch.uint16, torch.int32)
"""What tokens may be kept as; the smallest that holds the vocabulary."""

_SUM_CHUNK_VALUES = 1 << 20
"""Values per partial sum: bounds the float64 scratch copy to about 8 MiB."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArraySplit:
    """One part of a data set, on the CPU, as it was read.

    Example:
        ArraySplit(inputs=torch.zeros(4, 8, 8, 1, dtype=torch.uint8), targets=torch.tensor([0, 1, 2, 3]))
    """

    inputs: torch.Tensor
    """[N, H, W, C] uint8 (images, channels last), [N, F] uint8 or float32 (flat), or [N, T] uint8, uint16 or
    int32 (windows of tokens)."""
    targets: torch.Tensor
    """[N] int64; of tokens the inputs' type and shape: the token after each."""
    source: str = ""
    """Where these rows come from: set, folder, part and options in one text; the identity that a
    `DeviceCache` files the split under. Empty for arrays made by hand, which are never cached."""

    def __post_init__(self) -> None:
        """Check shapes and types.

        Raises:
            DataError: If the split is empty, or a shape or type is not one of those above.
        """
        where = f"split {self.source!r}" if self.source else "split"
        shape = tuple(self.inputs.shape)
        if self.is_tokens:
            self._check_tokens(where)
            return
        if self.inputs.dtype not in (torch.uint8, torch.float32) or len(shape) not in (2, 4):
            raise DataError(
                f"{where}: inputs are {self.inputs.dtype} {list(shape)}; expected uint8 or float32, [N, H, "
                "W, C] or [N, F]"
            )
        if self.targets.dtype != torch.int64 or tuple(self.targets.shape) != shape[:1]:
            raise DataError(
                f"{where}: targets are {self.targets.dtype} {list(self.targets.shape)}; expected int64 "
                f"[{shape[0]}]"
            )
        if min(shape) < 1:
            raise DataError(f"{where}: inputs {list(shape)} hold no items; expected at least one")

    def _check_tokens(self, where: str) -> None:
        inputs, targets = self.inputs, self.targets
        if inputs.dtype not in TOKEN_TYPES or (inputs.dtype, inputs.shape) != (targets.dtype, targets.shape):
            raise DataError(
                f"{where}: tokens are {inputs.dtype} {list(inputs.shape)} with targets {targets.dtype} "
                f"{list(targets.shape)}; expected the same type (uint8, uint16 or int32) and shape [N, T]"
            )
        if min(inputs.shape) < 1:
            raise DataError(f"{where}: tokens {list(inputs.shape)} hold no items; expected at least one")

    @property
    def is_tokens(self) -> bool:
        """Whether the items are windows of tokens, with a target at every position."""
        return self.targets.dim() == 2

    @property
    def num_items(self) -> int:
        """Rows in this part."""
        return int(self.targets.shape[0])

    @property
    def num_channels(self) -> int:
        """Channels of an image, features of a flat input, 0 for tokens: the length of `mean` and `std`."""
        return 0 if self.is_tokens else int(self.inputs.shape[-1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as a batch holds it: (C, H, W) of images, (F,) flat, (T,) of tokens."""
        shape = tuple(int(size) for size in self.inputs.shape[1:])
        return (shape[2], shape[0], shape[1]) if len(shape) == 3 else shape

    def rows(self, index: torch.Tensor, source: str) -> ArraySplit:
        """Return the part that holds the rows `index` ([M] int64), filed under `source`."""
        # `index_select`, because uint16 cannot be indexed in every other way.
        inputs, targets = (part.index_select(0, index) for part in (self.inputs, self.targets))
        return ArraySplit(inputs=inputs, targets=targets, source=source)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskData:
    """A data set in three parts. Validation steers growth and selection; test is only reported."""

    name: str
    train: ArraySplit
    validation: ArraySplit
    test: ArraySplit
    mean: tuple[float, ...]
    """Per channel (or feature), from the training part: uint8 values over 255, float values as they are.
    Empty for tokens, which are not normalised."""
    std: tuple[float, ...]
    """Population standard deviation on the same scale as `mean`; > 0."""
    class_names: tuple[str, ...]
    """Name of class 0, 1, ...; of tokens the vocabulary."""
    licence: str
    credit: str
    """The line to show wherever items of the set are shown."""
    citation: str

    @property
    def num_classes(self) -> int:
        """Number of classes, or of different tokens."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as a batch holds it: (C, H, W), (F,) or (T,)."""
        return self.train.input_shape


def compute_channel_stats(split: ArraySplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the per-channel mean and population standard deviation of a part.

    uint8 values are divided by 255, float values are taken as they are. Sums are float64, so that the result
    does not depend on the order of the rows beyond the last few bits.

    Args:
        split: Usually the training part.

    Returns:
        (mean, std), each of length `split.num_channels`: empty for tokens.

    Raises:
        DataError: If a channel is constant (it cannot be normalised) or not finite.

    Example:
        >>> train, _, _ = build_synthetic(SyntheticConfig())
        >>> mean, std = compute_channel_stats(train)
        >>> len(mean), len(std)
        (16, 16)
    """
    if split.is_tokens:
        return (), ()
    flat = split.inputs.reshape(-1, split.num_channels)
    chunk_rows = _SUM_CHUNK_VALUES // split.num_channels + 1
    total = torch.zeros(split.num_channels, dtype=torch.float64)
    for chunk in torch.split(flat, chunk_rows):
        total += chunk.to(torch.float64).sum(dim=0)
    mean = total / flat.shape[0]
    square = torch.zeros_like(total)
    for chunk in torch.split(flat, chunk_rows):
        square += (chunk.to(torch.float64) - mean).square_().sum(dim=0)
    std = (square / flat.shape[0]).sqrt()
    scale = 255.0 if split.inputs.dtype == torch.uint8 else 1.0
    means = tuple(float(value) for value in (mean / scale).tolist())
    stds = tuple(float(value) for value in (std / scale).tolist())
    for channel, value in enumerate(stds):
        if not 0.0 < value < float("inf"):
            raise DataError(
                f"split {split.source!r}: channel {channel} has standard deviation {value}; expected a "
                "finite value > 0"
            )
    return means, stds


def choose_rows(stream: str, num_available: int, num_rows: int) -> torch.Tensor:
    """Return a fixed pseudo-random choice of rows, ascending.

    Row r is ranked by SHA-256 of "<stream>:<r>" and the `num_rows` smallest ranks are taken: the same on
    every machine and library version, and a smaller choice is always contained in a larger one.

    Args:
        stream: Name of the set, so that two sets choose independently.
        num_available: Rows to choose from.
        num_rows: Rows to take, in [1, num_available].

    Returns:
        [num_rows] int64, ascending.

    Raises:
        ConfigError: If `num_rows` is out of its range.
    """
    if not 1 <= num_rows <= num_available:
        raise ConfigError(
            f"num_train_rows={num_rows}: {stream} has {num_available} training rows; choose 1 to "
            f"{num_available}"
        )
    if num_rows == num_available:
        return torch.arange(num_available)
    ranked = sorted(range(num_available), key=lambda row: rank_row(stream, row))
    return torch.tensor(sorted(ranked[:num_rows]), dtype=torch.int64)


def rank_row(stream: str, row: int) -> bytes:
    """Return the fixed rank of a row: SHA-256 of "<stream>:<row>"."""
    return hashlib.sha256(f"{stream}:{row}".encode()).digest()


def with_source(split: ArraySplit, source: str) -> ArraySplit:
    """Return the same arrays filed under another `source`."""
    return replace(split, source=source)


def check_labels(labels: torch.Tensor, num_classes: int, where: str) -> None:
    """Refuse labels outside [0, num_classes).

    Raises:
        DataError: Naming the file (`where`), the first bad record and its label.
    """
    bad = ((labels < 0) | (labels >= num_classes)).nonzero()
    if bad.numel():
        record = int(bad[0, 0])
        raise DataError(
            f"{where}: record {record} has label {int(labels[record])}; expected 0 to {num_classes - 1}"
        )
