"""Writes tiny files in the real formats."""

from __future__ import annotations

import gzip
import pickle  # noqa: TID251 - writes the python layout of CIFAR-10, as its publisher did
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from esper.data.images import EMOJI9_CLASSES


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """The IDX form of an array."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_fashion(folder: Path, *, num_train: int = 48, num_test: int = 12, is_packed: bool = True) -> Path:
    """Four IDX files of 6x5 images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", num_train), ("t10k", num_test)):
        images = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            if is_packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array), mtime=0))
            else:
                (folder / name).write_bytes(idx_bytes(array))
    return folder


def emoji_arrays() -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, npt.NDArray[np.generic]]]:
    """Contents of the two npz files: 18 images of 4x4, two of each class."""
    rng = np.random.default_rng(1)
    split = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, -1], dtype=np.int8)
    images: dict[str, npt.NDArray[np.generic]] = {
        "x": rng.integers(0, 256, (18, 4, 4, 3), dtype=np.uint8),
        "y": np.arange(18, dtype=np.int64) % 9,
        "test": split == 2,
    }
    rows: dict[str, npt.NDArray[np.generic]] = {
        "split": split,
        "variant": (np.arange(18) % 2).astype(np.uint8),
        "classes": np.array(EMOJI9_CLASSES),
    }
    return images, rows


def write_emoji(
    folder: Path,
    images: dict[str, npt.NDArray[np.generic]] | None = None,
    rows: dict[str, npt.NDArray[np.generic]] | None = None,
) -> Path:
    """The two npz files."""
    folder.mkdir(parents=True, exist_ok=True)
    first, second = emoji_arrays()
    np.savez(folder / "emoji9.npz", allow_pickle=True, **(first if images is None else images))
    np.savez(folder / "emoji9_rows.npz", allow_pickle=True, **(second if rows is None else rows))
    return folder


def cifar_records(num_records: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """[N, 3072] pixels and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_records, 3072), dtype=np.uint8), [row % 10 for row in range(num_records)]


def write_cifar(folder: Path, *, num_records: int = 4, is_binary: bool = True, protocol: int = 2) -> Path:
    """Six files of either layout with the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, stem in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        pixels, labels = cifar_records(num_records, seed)
        if is_binary:
            table = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
            (folder / f"{stem}.bin").write_bytes(table.tobytes())
        else:
            content = {b"data": pixels, b"labels": labels, b"batch_label": stem.encode()}
            (folder / stem).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder
