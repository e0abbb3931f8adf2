"""Reads texts out of files that nobody vouches for: .txt, .jsonl, .parquet, or a folder of them.

Every failure is a `DataError` that names the file and the byte, line or row. Nothing is read beyond a cap.
Knows nothing of tokens, parts or data sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from esper.leyline import DataError

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
TEXT_FIELD = "text"
"""Field of a .jsonl line, and column of a .parquet file, that holds a document."""
_PARQUET_ROWS = 1024
_LINE_OVERHEAD = 1 << 16


def list_text_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a path stands for: itself, or what a folder holds, by name.

    Raises:
        DataError: If there is nothing, a file has another suffix, or a folder holds no file of ours.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in TEXT_SUFFIXES and file.is_file())
        if found:
            return tuple(found)
        remedy = ""
        if any(path.glob("*.arrow")):
            remedy = "; Arrow folders need the package `datasets`: save yours with its to_parquet()"
        raise DataError(f"{path}: a folder without {', '.join(TEXT_SUFFIXES)} files{remedy}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a {', '.join(TEXT_SUFFIXES)} file, or a folder of them")
    if path.suffix not in TEXT_SUFFIXES:
        raise DataError(f"{path}: unknown kind of text; expected one of {', '.join(TEXT_SUFFIXES)}")
    return (path,)


def read_text(path: Path, max_bytes: int) -> str:
    """Return the whole content of a UTF-8 file.

    Raises:
        DataError: If it cannot be read, is longer than `max_bytes`, or holds a byte that is not UTF-8.
    """
    content, is_whole = read_beginning(path, max_bytes)
    if not is_whole:
        raise DataError(f"{path}: more than {max_bytes} bytes, the cap for this text")
    return decode(content, path)


def read_beginning(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes of a file, and whether they are all of it.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return content[:max_bytes], len(content) <= max_bytes


def decode(content: bytes, path: Path, offset: int = 0) -> str:
    """Return UTF-8 bytes as text.

    Args:
        content: The bytes.
        path: Their file, for the message.
        offset: Where in the file they begin.

    Raises:
        DataError: Naming the first byte that is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise DataError(
            f"{path}: byte {place} ({content[error.start]:#04x}) is not UTF-8 ({error.reason}); save the "
            "file as UTF-8"
        ) from error


def read_documents(path: Path, max_bytes: int) -> tuple[tuple[str, ...], bool]:
    """Return the documents of a .jsonl or .parquet file, and whether they are all of it.

    Where the cap is reached, reading ends with the last document that fits. Empty documents are left out.

    Args:
        path: A .jsonl file, each line an object with the field `text`, or a .parquet file with that column.
        max_bytes: Most bytes of text to read.

    Raises:
        DataError: Naming the line or row that is damaged or holds no text, or the package that is missing.
    """
    documents: list[str] = []
    num_bytes = 0
    for document in _each_parquet(path) if path.suffix == ".parquet" else _each_jsonl(path, max_bytes):
        num_bytes += len(document.encode("utf-8"))
        if num_bytes > max_bytes:
            return tuple(documents), False
        if document.strip():
            documents.append(document)
    return tuple(documents), True


def split_stories(path: Path, separator: str, max_bytes: int) -> tuple[tuple[str, ...], bool]:
    """Return the texts of a .txt file between separators, stripped, and whether they are all of it.

    Where the cap is reached, the text that it cuts is left out. Empty texts are left out.

    Raises:
        DataError: If the file cannot be read, is not UTF-8, or the cap leaves no whole text.
    """
    content, is_whole = read_beginning(path, max_bytes)
    mark = separator.encode()
    if not is_whole:
        end = content.rfind(mark)
        if end < 0:
            raise DataError(
                f"{path}: no {separator!r} in the first {max_bytes} bytes; expected it between texts"
            )
        content = content[:end]
    stories, offset = [], 0
    for piece in content.split(mark):
        story = decode(piece, path, offset).strip()
        offset += len(piece) + len(mark)
        if story:
            stories.append(story)
    return tuple(stories), is_whole


def _each_jsonl(path: Path, max_bytes: int) -> Iterator[str]:
    # A text of ASCII escapes is six times as long as what it says.
    longest = 6 * max_bytes + _LINE_OVERHEAD
    offset = 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(longest), b""), start=1):
                if len(line) == longest:
                    raise DataError(f"{path}: line {number} is longer than {longest} bytes")
                if line.strip():
                    yield _read_line(decode(line, path, offset), f"{path}: line {number}")
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_line(line: str, where: str) -> str:
    try:
        record: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON ({error}); expected an object with the field 'text'") from error
    if not isinstance(record, dict) or TEXT_FIELD not in record:
        fields = f"has the fields {sorted(record)[:8]}" if isinstance(record, dict) else "is no object"
        raise DataError(f"{where}: {fields}; expected the field 'text'")
    text = record[TEXT_FIELD]
    if not isinstance(text, str):
        raise DataError(f"{where}: 'text' is {type(text).__name__}; expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} of 'text' is half a character ({error.reason})"
        ) from error
    return text


def _each_parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow  # noqa: PLC0415 - optional, and heavy
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{path}: reading .parquet needs pyarrow: pip install 'esper-lite[data]', or save it as .jsonl"
        ) from error
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            if TEXT_FIELD not in file.schema_arrow.names:
                raise DataError(
                    f"{path}: has the columns {list(file.schema_arrow.names)[:8]}; expected the column 'text'"
                )
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[TEXT_FIELD]):
                for value in batch.column(0).to_pylist():
                    if not isinstance(value, str):
                        raise DataError(
                            f"{path}: row {row}: 'text' is {type(value).__name__}; expected a string"
                        )
                    yield value
                    row += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: unreadable after row {row} ({error}); expected a whole parquet file"
        ) from error
