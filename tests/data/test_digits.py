from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from esper.data.digits import DIGITS_FOLDER, load_digits
from esper.data.reading import read_bytes
from esper.leyline import DataError, canonical_hash

LINE = ",".join(["0"] * 64)


def _write(folder: Path, text: str) -> Path:
    (folder / "digits.csv.gz").write_bytes(gzip.compress(text.encode("latin-1"), mtime=0))
    return folder


def test_parts_have_the_fixed_sizes_and_are_stratified() -> None:
    parts = load_digits()
    assert [part.num_items for part in parts] == [1077, 360, 360]
    whole = sum(part.targets.bincount(minlength=10) for part in parts)
    assert isinstance(whole, torch.Tensor)
    for part in parts:
        expected = whole * part.num_items / 1797
        assert ((part.targets.bincount(minlength=10) - expected).abs() < 1.5).all()


def test_parts_hold_every_row_of_the_file_once() -> None:
    lines = read_bytes(DIGITS_FOLDER / "digits.csv.gz", 1 << 20).decode().split()
    seen = [
        ",".join(str(value) for value in [*image.reshape(-1).tolist(), label])
        for part in load_digits()
        for image, label in zip(part.inputs, part.targets.tolist(), strict=True)
    ]
    assert sorted(seen) == sorted(lines)


def test_split_is_frozen() -> None:
    # The rows of the split are part of every published number: this hash may never change.
    parts = [[part.inputs.flatten(1).tolist(), part.targets.tolist()] for part in load_digits()]
    digest = canonical_hash(parts)
    assert digest == "83e7f65cbe366b7e09be3e5544352a946b188928ac5315dad515a2c75cfbbcd3"


def test_licence_text_lies_beside_the_file() -> None:
    text = (DIGITS_FOLDER / "digits.LICENSE.txt").read_text(encoding="ascii")
    assert "BSD 3-Clause License" in text
    assert "Alpaydin" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no records"),
        (f"{LINE},3\n{LINE}\n", "record 1: expected 65 whole numbers"),
        (f"{LINE},x\n", "record 0: expected 65"),
        (f"{LINE},-1\n", "record 0: expected 65"),
        (f"{LINE},003\n", "record 0: expected 65"),
        (f"17,{LINE}\n", "record 0: value 17"),
        (f"{LINE},10\n", "record 0 has label 10"),
        (f"{LINE},3\n", "1 records; expected more than 720"),
        ("\xff", "byte 0 is not ASCII"),
    ],
)
def test_broken_file_is_refused_naming_the_record(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_digits(_write(tmp_path, text))
