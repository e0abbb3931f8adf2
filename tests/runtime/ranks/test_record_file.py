from __future__ import annotations

from pathlib import Path

import pytest

from esper.runtime.ranks.record_file import (
    MAX_BYTES,
    MAX_TEXT,
    DamagedRecordError,
    read_record,
    take_number,
    take_text,
    write_record,
)


def test_a_record_replaces_the_one_before_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", {"x": 1})
    write_record(tmp_path / "a.json", {"x": 2, "text": "\ud800"})
    assert read_record(tmp_path / "a.json") == {"x": 2, "text": "\ud800"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"\xff\x00", b"[" * 50_000, b'{"x": 1' + b" " * MAX_BYTES + b"}"],
    ids=["empty", "cut", "a list", "no text", "too deep", "too large"],
)
def test_a_damaged_file_is_told_from_a_missing_one(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DamagedRecordError, match=r"a\.json"):
        read_record(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "b.json")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1])
def test_only_whole_numbers_in_range_are_taken(value: object) -> None:
    with pytest.raises(DamagedRecordError, match="count is"):
        take_number({"count": value}, "count")
    assert take_number({"count": -1}, "count", -1) == -1


def test_texts_are_taken_and_cut() -> None:
    assert take_text({"why": "x" * 5_000}, "why") == "x" * MAX_TEXT
    with pytest.raises(DamagedRecordError, match="why is no text"):
        take_text({"why": 3}, "why")
