"""The published files themselves; skipped where ESPER_DATA is absent, except in CI, where absence is a
failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.data import LoadOptions, TextConfig, check, load_dataset


@pytest.fixture
def data_dir() -> Path:
    configured = os.environ.get("ESPER_DATA", "")
    if not configured:
        pytest.skip("ESPER_DATA is not set")
    return Path(configured)


def test_ci_does_not_skip_the_full_sets() -> None:
    # Unmarked on purpose: a marked test is skipped before it could complain.
    if os.environ.get("CI", "") == "true" and not os.environ.get("ESPER_DATA", ""):
        pytest.fail("CI must set ESPER_DATA to the folder of the full sets")


@pytest.mark.full_data
@pytest.mark.parametrize("name", ["fashion_mnist", "emoji9", "austen"])
def test_published_files_pass_their_check(data_dir: Path, name: str) -> None:
    assert [finding for finding in check(name, data_dir) if not finding.is_ok] == []


@pytest.mark.full_data
def test_fashion_mnist_is_as_published(data_dir: Path) -> None:
    data = load_dataset("fashion_mnist", data_dir, LoadOptions(num_train_rows=55_000))
    assert (data.train.num_items, data.validation.num_items, data.test.num_items) == (55_000, 5_000, 10_000)
    assert data.train.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert data.test.targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert data.validation.targets.bincount().tolist() == [521, 497, 490, 508, 527, 503, 467, 450, 515, 522]
    assert data.mean == pytest.approx((0.2858,), abs=5e-5)
    assert data.std == pytest.approx((0.3529,), abs=5e-5)


@pytest.mark.full_data
def test_fashion_mnist_subset_is_frozen(data_dir: Path) -> None:
    # These counts are part of every published number of the growth studies.
    data = load_dataset("fashion_mnist", data_dir)
    assert data.train.targets.bincount().tolist() == [967, 952, 1017, 1000, 1036, 1006, 1005, 970, 1009, 1038]


@pytest.mark.full_data
def test_emoji9_is_as_published(data_dir: Path) -> None:
    data = load_dataset("emoji9", data_dir)
    assert data.train.targets.bincount().tolist() == [112, 222, 388, 188, 380, 3173, 242, 332, 326]
    assert data.validation.targets.bincount().tolist() == [20, 40, 67, 34, 66, 543, 42, 58, 58]
    assert data.test.targets.bincount().tolist() == [38, 56, 80, 40, 82, 788, 54, 58, 52]
    assert data.mean == pytest.approx((0.7952, 0.7401, 0.7014), abs=5e-5)
    assert data.std == pytest.approx((0.2764, 0.2843, 0.3224), abs=5e-5)
    base = load_dataset("emoji9", data_dir, LoadOptions(is_base_only=True))
    assert (base.train.num_items, base.validation.num_items, base.test.num_items) == (2_723, 478, 588)


@pytest.mark.full_data
def test_austen_is_as_published(data_dir: Path) -> None:
    data = load_dataset("austen", data_dir, LoadOptions(text=TextConfig(tokens="characters")))
    # 80 characters of the training part and token 0, which stands for the pound sign of the test part.
    assert data.num_classes == 81
    assert (data.test.inputs == 0).sum() + (data.test.targets[:, -1] == 0).sum() in (1, 2)
    assert not (data.train.inputs == 0).any()
    parts = (data.train, data.validation, data.test)
    counts = ((794_724, 794_950, 390_069, 420_167, 616_290, 606_318),
              (44_151, 44_164, 21_670, 23_343, 34_238, 33_684),
              (44_152, 44_164, 21_671, 23_343, 34_239, 33_685))  # fmt: skip
    for split, novels in zip(parts, counts, strict=True):
        assert split.num_items == sum((length - 1) // 64 for length in novels)
    as_bytes = load_dataset("austen", data_dir)
    assert as_bytes.train.num_items == data.train.num_items
    assert bytes(as_bytes.train.inputs[0].tolist()).decode().startswith("EMMA")
