from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import esper.data
from data.formats import cifar_records, write_emoji, write_fashion
from esper.data import (
    DATASET_NAMES,
    ArraySplit,
    DeviceCache,
    LoadOptions,
    StorageKind,
    SyntheticConfig,
    build_storage,
    load_dataset,
)
from esper.data.loading import FASHION_MNIST_TRAIN_ROWS
from esper.leyline import ConfigError, DataError, UnknownNameError


def test_front_door_is_sorted_and_complete() -> None:
    names = list(esper.data.__all__)
    constants = sorted(name for name in names if name.isupper())
    types = sorted(name for name in names if name[0].isupper() and not name.isupper())
    functions = sorted(name for name in names if name[0].islower())
    assert names == constants + types + functions
    assert all(hasattr(esper.data, name) for name in names)


def test_names_are_those_of_the_presets() -> None:
    assert set(DATASET_NAMES) == {
        "digits", "fashion_mnist", "emoji9", "cifar10", "cifar10_deep", "austen", "tinystories", "text",
        "synthetic",
    }  # fmt: skip


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_dataset("digit")


def test_digits_load_without_any_folder() -> None:
    data = load_dataset("digits")
    assert (data.train.num_items, data.validation.num_items, data.test.num_items) == (1077, 360, 360)
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.licence == "BSD-3-Clause"


def test_constants_come_from_the_training_part() -> None:
    data = load_dataset("digits")
    values = data.train.inputs.double() / 255
    assert data.mean[0] == pytest.approx(float(values.mean()), rel=1e-12)
    assert data.std[0] == pytest.approx(float(values.std(correction=0)), rel=1e-12)


def test_rows_and_sources_follow_the_options(tmp_path: Path) -> None:
    write_fashion(tmp_path / "fashion-mnist", num_train=48)
    whole = load_dataset("fashion_mnist", tmp_path)
    part = load_dataset("fashion_mnist", tmp_path, LoadOptions(num_train_rows=7))
    assert (whole.train.num_items, part.train.num_items) == (44, 7)
    assert part.validation.num_items == whole.validation.num_items
    assert part.train.source != whole.train.source
    assert str(tmp_path) in part.train.source
    assert part.mean != whole.mean


def test_fashion_trains_on_its_subset_by_default(tmp_path: Path) -> None:
    write_fashion(tmp_path / "fashion-mnist", num_train=12_000)
    data = load_dataset("fashion_mnist", tmp_path)
    assert data.train.num_items == FASHION_MNIST_TRAIN_ROWS
    full = load_dataset("fashion_mnist", tmp_path, LoadOptions(num_train_rows=11_000))
    assert full.train.num_items == 11_000
    with pytest.raises(ConfigError, match="has 11000 training rows"):
        load_dataset("fashion_mnist", tmp_path, LoadOptions(num_train_rows=11_001))


def test_emoji_takes_base_only(tmp_path: Path) -> None:
    write_emoji(tmp_path / "emoji9")
    data = load_dataset("emoji9", tmp_path, LoadOptions(is_base_only=True))
    assert data.train.num_items == 5
    assert "Twitter" in data.credit
    assert len(data.mean) == 3


@pytest.mark.slow
def test_cifar_names_share_data_and_rows(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pixels, _ = cifar_records(100, 0)
    records = b"".join(bytes([row % 10]) + pixels[row].tobytes() for row in range(100))
    for stem in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        (folder / f"{stem}.bin").write_bytes(records * 100)
    options = LoadOptions(num_train_rows=100)
    first, second = (load_dataset(name, tmp_path, options) for name in ("cifar10", "cifar10_deep"))
    assert first.train.source == second.train.source
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert (first.validation.num_items, first.test.num_items) == (5_000, 10_000)


def test_synthetic_takes_its_config() -> None:
    config = SyntheticConfig(num_classes=3, num_train=90, num_validation=30, num_test=30)
    data = load_dataset("synthetic", options=LoadOptions(synthetic=config))
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert data.train.num_items == 90
    assert len(data.mean) == 16


_KINDS: tuple[StorageKind, ...] = ("uint8", "float32")
CPU = torch.device("cpu")


def test_bug14_one_cache_tells_folder_split_rows_type_and_generator_apart(tmp_path: Path) -> None:
    for name, num_train in (("one", 48), ("two", 60)):
        write_fashion(tmp_path / name / "fashion-mnist", num_train=num_train)
    first, other = (load_dataset("fashion_mnist", tmp_path / name) for name in ("one", "two"))
    few = load_dataset("fashion_mnist", tmp_path / "one", LoadOptions(num_train_rows=7))
    plain = SyntheticConfig(num_classes=3, num_train=90, num_validation=30, num_test=30)
    made = [
        load_dataset("synthetic", options=LoadOptions(synthetic=config))
        for config in (plain, replace(plain, seed=1), replace(plain, noise=0.5))
    ]
    asked: list[tuple[ArraySplit, StorageKind, tuple[float, ...], tuple[float, ...]]] = [
        (split, kind, first.mean, first.std)
        for split in (first.train, first.validation, first.test, other.train, few.train)
        for kind in _KINDS
    ]
    asked += [(data.train, "float32", data.mean, data.std) for data in made]
    with DeviceCache() as cache:
        for _ in range(2):
            for split, kind, mean, std in asked:
                found = cache.storage(split, device=CPU, mean=mean, std=std, kind=kind)
                fresh = build_storage(split, device=CPU, mean=mean, std=std, kind=kind)
                assert torch.equal(found.inputs, fresh.inputs)
                assert torch.equal(found.targets, fresh.targets)
        # The second lap found everything again: one storage per different question, no more and no fewer.
        assert len(cache) == len(asked)


def test_option_of_another_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="only emoji9"):
        load_dataset("digits", options=LoadOptions(is_base_only=True))
    with pytest.raises(ConfigError, match="only the set synthetic"):
        load_dataset("digits", options=LoadOptions(synthetic=SyntheticConfig(seed=1)))
    with pytest.raises(ConfigError, match="num_train_rows=0"):
        LoadOptions(num_train_rows=0)


def test_missing_set_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="was not found"):
        load_dataset("cifar10")
