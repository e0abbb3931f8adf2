from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from data.tiny_texts import write_jsonl, write_parquet, write_stories
from esper.data.text_files import list_text_files, read_beginning, read_documents, read_text, split_stories
from esper.leyline import DataError

MARK = "<|endoftext|>"
LIMIT = 1 << 20


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("na\u00efve\r\n\tpound \u00a3\n".encode())
    assert read_text(path, LIMIT) == "na\u00efve\r\n\tpound \u00a3\n"


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"ab\xffcd", 2), (b"\x80", 0), ("pound \u00a3".encode()[:-1], 6), (b"ok \xed\xa0\x80", 3)],
    ids=["ff", "continuation", "cut", "surrogate"],
)
def test_a_byte_that_is_not_utf8_is_named(tmp_path: Path, content: bytes, place: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.txt: byte {place} \(0x.*not UTF-8"):
        read_text(path, LIMIT)


def test_more_than_the_cap_is_refused_and_exactly_the_cap_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 10)
    assert read_text(path, 10) == "x" * 10
    with pytest.raises(DataError, match="more than 9 bytes"):
        read_text(path, 9)
    assert read_beginning(path, 4) == (b"xxxx", False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        read_text(tmp_path / "gone.txt", LIMIT)
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        list_text_files(tmp_path / "gone.txt")


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_documents_come_back_in_order_without_the_empty_ones(tmp_path: Path, write: object) -> None:
    suffix = ".jsonl" if write is write_jsonl else ".parquet"
    path = tmp_path / f"a{suffix}"
    assert callable(write)
    write(path, ["one \u00a3", "  ", "", 'two "quoted"\nlines', "three"])
    assert read_documents(path, LIMIT) == (("one \u00a3", 'two "quoted"\nlines', "three"), True)
    assert read_documents(path, 11) == (("one \u00a3",), False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"text": "a"}\n{"text": "b"', "line 2: no JSON"),
        (
            b'{"text": "a"}\n{"content": "b"}',
            r"line 2: has the fields \['content'\]; expected the field 'text'",
        ),
        (b'["a"]', "line 1: is no object"),
        (b'{"text": 3}', "line 1: 'text' is int"),
        (b'{"text": null}', "line 1: 'text' is NoneType"),
        (b'{"text": "\\ud800"}', "line 1: character 0 of 'text' is half a character"),
        (b'{"text": "a"}\n{"text": "\xff"}', "byte 24 .* is not UTF-8"),
        (b"[" * 100_000, "line 1: no JSON"),
    ],
    ids=["cut", "field", "list", "number", "null", "surrogate", "utf8", "deep"],
)
def test_a_damaged_line_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jsonl: {reason}"):
        read_documents(path, LIMIT)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [f"story {number}" for number in range(100)])
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"a\.parquet: unreadable after row 0"):
            read_documents(path, LIMIT)


def test_a_parquet_file_with_broken_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [f"story {number}" for number in range(2000)])
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: unreadable"):
        read_documents(path, LIMIT)


def test_a_parquet_file_without_the_column_or_with_numbers_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, ["a"], column="story")
    with pytest.raises(DataError, match=r"has the columns \['story', 'id'\]; expected the column 'text'"):
        read_documents(path, LIMIT)
    write_parquet(path, [1, 2])  # type: ignore[list-item]
    with pytest.raises(DataError, match="row 0: 'text' is int"):
        read_documents(path, LIMIT)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a.parquet", builtins.__import__
    path.write_bytes(b"PAR1")

    def refuse(name: str, *args: object, **named: object) -> object:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install 'esper-lite\[data\]'"):
        read_documents(path, LIMIT)


def test_stories_are_split_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_stories(path, ["One.", "Two.\nMore.", " ", "Three \u00a3."])
    assert split_stories(path, MARK, LIMIT) == (("One.", "Two.\nMore.", "Three \u00a3."), True)


def test_a_cap_leaves_the_story_out_that_it_cuts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_stories(path, ["One.", "Two.", "Three."])
    assert split_stories(path, MARK, 30) == (("One.",), False)
    assert split_stories(path, MARK, 40) == (("One.", "Two."), False)
    with pytest.raises(DataError, match="in the first 10 bytes"):
        split_stories(path, MARK, 10)


def test_the_offset_of_a_bad_byte_counts_from_the_file_and_not_from_the_story(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"One." + MARK.encode() + b"Tw\xff.")
    with pytest.raises(DataError, match="byte 19 "):
        split_stories(path, MARK, LIMIT)


def test_a_folder_gives_its_texts_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl", "c.parquet", "notes.md"):
        (tmp_path / name).touch()
    assert [file.name for file in list_text_files(tmp_path)] == ["a.jsonl", "b.txt", "c.parquet"]
    assert list_text_files(tmp_path / "b.txt") == (tmp_path / "b.txt",)
    with pytest.raises(DataError, match=r"notes\.md: unknown kind of text"):
        list_text_files(tmp_path / "notes.md")


@pytest.mark.parametrize(("name", "remedy"), [("x.md", "files$"), ("data.arrow", "Arrow folders need")])
def test_a_folder_without_texts_is_refused(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=remedy):
        list_text_files(tmp_path)
