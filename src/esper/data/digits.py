"""The embedded set: 1,797 handwritten digits of 8x8 pixels, read from a file inside the package.

No folder, no variable and no other library is needed, so that the first run of a new user always works.
"""

from __future__ import annotations

from pathlib import Path

import torch

from esper.data.reading import read_bytes
from esper.data.splits import ArraySplit, check_labels, rank_row
from esper.leyline import DataError

DIGITS_FOLDER = Path(__file__).parent / "files"
"""Folder of the embedded file and of its licence text."""

_NUM_COLUMNS = 65
_NUM_CLASSES = 10
_MAX_PIXEL = 16
_MAX_BYTES = 1 << 20
_VALIDATION_ROWS = 360
_TEST_ROWS = 360


def load_digits(
    folder: Path = DIGITS_FOLDER, *, num_validation: int = _VALIDATION_ROWS, num_test: int = _TEST_ROWS
) -> tuple[ArraySplit, ArraySplit, ArraySplit]:
    """Return the train, validation and test parts: 1,077 / 360 / 360 rows, stratified, always the same rows.

    Inputs are [N, 8, 8, 1] uint8 with values 0..16.

    Args:
        folder: Where `digits.csv.gz` lies.
        num_validation: Rows of the validation part.
        num_test: Rows of the test part.

    Raises:
        DataError: If the file is damaged, naming the record.
    """
    path = folder / "digits.csv.gz"
    table = _read_table(path)
    labels = table[:, -1].to(torch.int64)
    check_labels(labels, _NUM_CLASSES, str(path))
    inputs = table[:, :-1].reshape(-1, 8, 8, 1).contiguous()
    whole = ArraySplit(inputs=inputs, targets=labels, source="digits")
    if num_validation + num_test >= whole.num_items:
        raise DataError(f"{path}: {whole.num_items} records; expected more than {num_validation + num_test}")
    test, rest = _take_stratified(labels, list(range(whole.num_items)), num_test)
    validation, train = _take_stratified(labels, rest, num_validation)
    train_split, validation_split, test_split = (
        whole.rows(torch.tensor(rows), f"digits/{part}")
        for part, rows in (("train", train), ("validation", validation), ("test", test))
    )
    return train_split, validation_split, test_split


def _read_table(path: Path) -> torch.Tensor:
    """Return [N, 65] uint8 from comma-separated whole numbers."""
    try:
        lines = read_bytes(path, _MAX_BYTES).decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not ASCII; expected comma-separated numbers"
        ) from error
    rows: list[list[int]] = []
    for record, line in enumerate(lines):
        fields = line.split(",")
        if len(fields) != _NUM_COLUMNS or not all(field.isdigit() and len(field) <= 2 for field in fields):
            raise DataError(
                f"{path}: record {record}: expected {_NUM_COLUMNS} whole numbers, got {line[:60]!r}"
            )
        row = [int(field) for field in fields]
        if max(row) > _MAX_PIXEL:
            raise DataError(f"{path}: record {record}: value {max(row)}; pixels are 0 to {_MAX_PIXEL}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no records; expected 1,797")
    return torch.tensor(rows, dtype=torch.uint8)


def _take_stratified(labels: torch.Tensor, rows: list[int], num_take: int) -> tuple[list[int], list[int]]:
    """Return (taken, left), both ascending.

    Each class gives its share by largest remainder, ties to the lower class; within a class the rows with the
    smallest fixed rank are taken.
    """
    by_class: list[list[int]] = [[] for _ in range(_NUM_CLASSES)]
    for row in rows:
        by_class[int(labels[row])].append(row)
    shares = [len(members) * num_take / len(rows) for members in by_class]
    counts = [int(share) for share in shares]
    order = sorted(range(_NUM_CLASSES), key=lambda label: (counts[label] - shares[label], label))
    for label in order[: num_take - sum(counts)]:
        counts[label] += 1
    taken: set[int] = set()
    for members, count in zip(by_class, counts, strict=True):
        taken.update(sorted(members, key=lambda row: rank_row("digits", row))[:count])
    return sorted(taken), [row for row in rows if row not in taken]
