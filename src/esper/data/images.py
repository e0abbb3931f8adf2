"""Readers of the two image sets that come as plain arrays: fashion_mnist (IDX) and emoji9 (npz).

Each returns uint8 channels-last images and int64 labels in three parts. Which rows are validation is defined
here and nowhere else. Knows nothing of where folders are searched, nor of devices.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from esper.data.reading import read_idx, read_npz
from esper.data.splits import ArraySplit, check_labels
from esper.leyline import DataError

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Class names of fashion_mnist, in the order of the labels."""

EMOJI9_CLASSES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
"""Class names of emoji9, in the order of the labels."""

_MAX_BYTES = 1 << 28
"""Cap on one decompressed file: five times the largest of the known ones (47 MB)."""

_VALIDATION_SHARE = 12
"""Validation is the last twelfth of the published training rows: 5,000 of 60,000."""


def load_fashion_mnist(folder: Path) -> tuple[ArraySplit, ArraySplit, ArraySplit]:
    """Return the train, validation and test parts: 55,000 / 5,000 / 10,000 rows of the published files.

    Training is the first eleven twelfths of the train files in file order, validation the rest, test the t10k
    files. Inputs are [N, H, W, 1] uint8.

    Args:
        folder: Holds the four IDX files, each as `.gz` or plain.

    Raises:
        DataError: If a file is missing or damaged, or images and labels do not match.
    """
    images, labels = _read_idx_pair(folder, "train")
    num_train = images.shape[0] - images.shape[0] // _VALIDATION_SHARE
    if num_train == images.shape[0]:
        raise DataError(f"{folder}: {num_train} training records; expected at least {_VALIDATION_SHARE}")
    test_images, test_labels = _read_idx_pair(folder, "t10k")
    if test_images.shape[1:] != images.shape[1:]:
        raise DataError(
            f"{folder}: test images are {list(test_images.shape[1:3])}, training images "
            f"{list(images.shape[1:3])}"
        )
    return (
        ArraySplit(inputs=images[:num_train], targets=labels[:num_train], source="fashion_mnist/train"),
        ArraySplit(inputs=images[num_train:], targets=labels[num_train:], source="fashion_mnist/validation"),
        ArraySplit(inputs=test_images, targets=test_labels, source="fashion_mnist/test"),
    )


def load_emoji9(folder: Path, *, is_base_only: bool = False) -> tuple[ArraySplit, ArraySplit, ArraySplit]:
    """Return the train, validation and test parts: 5,363 / 928 / 1,248 rows, as `emoji9_rows.npz` says.

    The part of a row is never chosen by its number: skin-tone variants and the two artists' drawings of one
    emoji stay together. Inputs are [N, H, W, 3] uint8.

    Args:
        folder: Holds `emoji9.npz` and `emoji9_rows.npz`.
        is_base_only: Leave out the skin-tone variants (2,723 / 478 / 588 rows), which makes the classes less
            uneven.

    Raises:
        DataError: If a file is missing or damaged, or the two do not match.
    """
    path, rows_path = folder / "emoji9.npz", folder / "emoji9_rows.npz"
    arrays = read_npz(path, ("x", "y", "test"), _MAX_BYTES)
    rows = read_npz(rows_path, ("split", "variant", "classes"), _MAX_BYTES)
    num_items = _check_emoji9_images(path, arrays["x"], arrays["y"])
    part = _integers(rows_path, "split", rows["split"], num_items)
    variant = _integers(rows_path, "variant", rows["variant"], num_items)
    is_test = _integers(path, "test", arrays["test"], num_items)
    classes = tuple(str(name) for name in rows["classes"].reshape(-1).tolist())
    if classes != EMOJI9_CLASSES:
        raise DataError(
            f"{rows_path}: array 'classes' is {list(classes)[:12]}; expected {list(EMOJI9_CLASSES)}"
        )
    bad = np.flatnonzero((part < -1) | (part > 2) | ((part == 2) != (is_test == 1)))
    if bad.size:
        record = int(bad[0])
        raise DataError(
            f"{rows_path}: record {record} has split {int(part[record])}; expected 0, 1, 2 (the test rows of "
            f"{path.name}) or -1"
        )
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    check_labels(labels, len(EMOJI9_CLASSES), str(path))
    inputs = torch.from_numpy(np.ascontiguousarray(arrays["x"]))
    whole = ArraySplit(inputs=inputs, targets=labels, source="emoji9")
    is_kept = (variant == 0) if is_base_only else np.ones(num_items, dtype=np.bool_)
    suffix = "/base" if is_base_only else ""
    train, validation, test = (
        whole.rows(torch.from_numpy(np.flatnonzero((part == code) & is_kept)), f"emoji9/{name}{suffix}")
        for code, name in enumerate(("train", "validation", "test"))
    )
    return train, validation, test


def _read_idx_pair(folder: Path, stem: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([N, H, W, 1] uint8, [N] int64) of one pair of image and label files."""
    image_path = _gz_or_plain(folder, f"{stem}-images-idx3-ubyte")
    label_path = _gz_or_plain(folder, f"{stem}-labels-idx1-ubyte")
    images = read_idx(image_path, 3, _MAX_BYTES)
    labels = read_idx(label_path, 1, _MAX_BYTES)
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{label_path}: {labels.shape[0]} labels; {image_path.name} holds {images.shape[0]} images"
        )
    targets = torch.from_numpy(labels.astype(np.int64))
    check_labels(targets, len(FASHION_MNIST_CLASSES), str(label_path))
    return torch.from_numpy(images.copy()).unsqueeze(-1), targets


def _gz_or_plain(folder: Path, stem: str) -> Path:
    """Return the path of the file that exists; of the `.gz` one where both or neither do."""
    packed, plain = folder / f"{stem}.gz", folder / stem
    return plain if plain.is_file() and not packed.is_file() else packed


def _check_emoji9_images(path: Path, images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> int:
    """Return the number of rows; raise if the images or labels have another shape or type."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise DataError(
            f"{path}: array 'x' is {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, 3]"
        )
    _integers(path, "y", labels, images.shape[0])
    return int(images.shape[0])


def _integers(path: Path, name: str, array: npt.NDArray[np.generic], num_items: int) -> npt.NDArray[np.int64]:
    """Return an integer or boolean column as int64; raise if it has another kind or length."""
    if array.dtype.kind not in "iub" or array.shape != (num_items,):
        raise DataError(
            f"{path}: array {name!r} is {array.dtype} {list(array.shape)}; expected integers [{num_items}]"
        )
    return array.astype(np.int64)
