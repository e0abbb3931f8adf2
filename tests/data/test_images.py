from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from data.formats import emoji_arrays, idx_bytes, write_emoji, write_fashion
from esper.data.images import load_emoji9, load_fashion_mnist
from esper.leyline import DataError


@pytest.mark.parametrize("is_packed", [True, False])
def test_fashion_validation_is_the_last_twelfth(tmp_path: Path, is_packed: bool) -> None:
    train, validation, test = load_fashion_mnist(write_fashion(tmp_path, is_packed=is_packed))
    assert (train.num_items, validation.num_items, test.num_items) == (44, 4, 12)
    assert train.inputs.dtype == torch.uint8
    assert tuple(train.inputs.shape) == (44, 6, 5, 1)
    assert train.input_shape == (1, 6, 5)
    assert validation.targets.tolist() == [row % 10 for row in range(44, 48)]


def test_fashion_missing_file_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
        load_fashion_mnist(tmp_path)


def test_fashion_label_out_of_range_names_the_record(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    labels = np.zeros(48, dtype=np.uint8)
    labels[7] = 10
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels), mtime=0))
    with pytest.raises(DataError, match="record 7 has label 10; expected 0 to 9"):
        load_fashion_mnist(tmp_path)


def test_fashion_labels_of_another_count_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    labels = idx_bytes(np.zeros(47, dtype=np.uint8))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))
    with pytest.raises(DataError, match="47 labels"):
        load_fashion_mnist(tmp_path)


def test_fashion_test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    images = idx_bytes(np.zeros((12, 6, 6), dtype=np.uint8))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
    with pytest.raises(DataError, match="test images are"):
        load_fashion_mnist(tmp_path)


def test_fashion_too_few_rows_for_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 12"):
        load_fashion_mnist(write_fashion(tmp_path, num_train=11))


def test_emoji_parts_follow_the_split_column(tmp_path: Path) -> None:
    train, validation, test = load_emoji9(write_emoji(tmp_path))
    assert (train.num_items, validation.num_items, test.num_items) == (9, 4, 4)
    images, _ = emoji_arrays()
    assert np.array_equal(test.inputs.numpy(), images["x"][13:17])
    assert validation.targets.tolist() == [0, 1, 2, 3]
    assert train.input_shape == (3, 4, 4)


def test_emoji_base_only_leaves_variants_out(tmp_path: Path) -> None:
    train, validation, test = load_emoji9(write_emoji(tmp_path), is_base_only=True)
    assert (train.num_items, validation.num_items, test.num_items) == (5, 2, 2)
    assert train.source != load_emoji9(tmp_path)[0].source


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("x", np.zeros((18, 4, 4), dtype=np.uint8), r"array 'x' is uint8 \[18, 4, 4\]"),
        ("x", np.zeros((18, 4, 4, 3), dtype=np.float32), "array 'x' is float32"),
        ("x", np.zeros((0, 4, 4, 3), dtype=np.uint8), "array 'x'"),
        ("y", np.zeros(17, dtype=np.int64), "array 'y'"),
        ("y", np.full(18, 9), "record 0 has label 9; expected 0 to 8"),
        ("y", np.zeros(18, dtype=np.float64), "array 'y' is float64"),
        ("test", np.zeros(18, dtype=np.bool_), "record 13 has split 2"),
        ("split", np.full(18, 3, dtype=np.int8), "record 0 has split 3"),
        ("split", np.zeros(3, dtype=np.int8), "array 'split'"),
        ("variant", np.array([None] * 18, dtype=object), "holds Python objects"),
        ("classes", np.array(["a", "b"]), "array 'classes'"),
    ],
)
def test_broken_emoji_is_refused(
    tmp_path: Path, name: str, array: np.typing.NDArray[np.generic], told: str
) -> None:
    images, rows = emoji_arrays()
    (images if name in images else rows)[name] = array
    with pytest.raises(DataError, match=told):
        load_emoji9(write_emoji(tmp_path, images, rows))


def test_emoji_part_without_rows_is_refused(tmp_path: Path) -> None:
    images, rows = emoji_arrays()
    rows["split"] = np.where(images["test"], 2, 0).astype(np.int8)
    with pytest.raises(DataError, match="emoji9/validation"):
        load_emoji9(write_emoji(tmp_path, images, rows))
