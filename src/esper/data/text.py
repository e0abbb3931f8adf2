"""Texts for language models: which part of a text is validation, what a token is, and windows of tokens.

    files -> segments per part -> tokens -> windows [N, T] of inputs, and the same one token later as targets

A window never crosses the border of a part or a segment. A token is a byte (256) or a character; no learned
vocabulary. Knows nothing of devices, batches or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from esper.data.records import AUSTEN_NAME, TINYSTORIES_FILES
from esper.data.splits import ArraySplit, choose_rows, rank_row
from esper.data.text_files import list_text_files, read_documents, read_text, split_stories
from esper.leyline import ConfigError, DataError, suggest

TOKEN_KINDS = ("bytes", "characters")
STORY_END = "<|endoftext|>"
"""Between two stories of a TinyStories .txt file."""
SEPARATOR = "\0"
"""Between two documents of one segment: a character that no text holds."""
UNKNOWN_TOKEN = "<unknown>"
"""Name of token 0 where tokens are characters: one that the training part does not hold."""
AUSTEN_NOVELS = (
    (0, 883_027),
    (883_029, 883_278),
    (1_766_309, 433_410),
    (2_199_721, 466_853),
    (2_666_576, 684_767),
    (3_351_345, 673_687),
)
"""First character and length of Emma, Mansfield Park, Northanger Abbey, Persuasion, Pride and Prejudice,
Sense and Sensibility."""

_MIB = 1 << 20
_TRAIN_TENTHS, _VALIDATION_TWENTIETHS = 9, 19
_HELD_OUT_SHARE = 20
_AUSTEN_MAX_BYTES = 8 * _MIB


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How text becomes windows of tokens; sets that are no text take none of it."""

    tokens: str = "bytes"
    """"bytes" (256 tokens, any text) or "characters" (those of the training part; token 0 stands for any
    other). Bytes, because a model then has the same shape for every text."""
    context: int = 64
    """Tokens of one window, >= 2; 64 are about a dozen English words and cheap on a CPU."""
    file: str | None = None
    """Task text only: a .txt, .jsonl or .parquet file, or a folder of them."""
    max_mb: float = 64.0
    """Most text that is read, in MiB, > 0: a longer file of your own is refused, tinystories ends there. 64
    holds millions of windows, in about three times the memory."""
    max_held_out_windows: int = 4000
    """Most windows of the validation part, and of the test part, >= 2, a fixed choice over all of it; 4,000
    are all of austen and keep measuring a small part of the bill."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        if self.tokens not in TOKEN_KINDS:
            raise ConfigError(f"text.tokens={self.tokens!r}: {suggest(self.tokens, TOKEN_KINDS)}")
        for name, least, most in (("context", 2, 1 << 16), ("max_held_out_windows", 2, 1 << 31)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"text.{name}={getattr(self, name)}: must be in [{least}, {most}]")
        if not 0.0 < self.max_mb <= 1 << 20:
            raise ConfigError(f"text.max_mb={self.max_mb}: must be > 0 and at most {1 << 20}, e.g. 64")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The segments of each part."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def read_austen(folder: Path, novels: Sequence[tuple[int, int]] = AUSTEN_NOVELS) -> Texts:
    """Return the six novels, each cut into the first nine tenths, half of the last, and the rest.

    Cutting each novel, and not the file, keeps every novel in every part.

    Args:
        folder: Holds `austen.txt`.
        novels: First character and length of each.

    Raises:
        DataError: If the file is missing, not UTF-8, or not as long as the novels.
    """
    path = folder / AUSTEN_NAME
    text = read_text(path, _AUSTEN_MAX_BYTES)
    end = max(start + length for start, length in novels)
    if len(text.rstrip("\n")) != end:
        raise DataError(
            f"{path}: {len(text)} characters; expected {end + 1}. Any other text is read by the task text "
            "(--task.text.file)"
        )
    return _join([_cut(text[start : start + length]) for start, length in novels])


def read_tinystories(folder: Path, max_bytes: int) -> Texts:
    """Return the training stories, and the published validation stories halved into validation and test.

    Args:
        folder: Holds the two .txt files, or .jsonl or .parquet files that begin with "train" and "valid".
        max_bytes: Most text of training stories; held-out ones are read up to a tenth of it, or
            1 MiB if that is more.

    Raises:
        DataError: If a file is missing or damaged, or a part holds no story.
    """
    for train_name, valid_name in TINYSTORIES_FILES:
        train_files, valid_files = sorted(folder.glob(train_name)), sorted(folder.glob(valid_name))
        if train_files and valid_files:
            train = _read_stories(train_files, max_bytes)
            held_out = _read_stories(valid_files, max(max_bytes // 10, min(max_bytes, _MIB)))
            half = (len(held_out) + 1) // 2
            return Texts(
                train=(SEPARATOR.join(train),),
                validation=(SEPARATOR.join(held_out[:half]),),
                test=(SEPARATOR.join(held_out[half:]),),
            )
    raise DataError(f"{folder}: no pair of files of training and validation stories")


def read_own(path: Path, max_bytes: int) -> Texts:
    """Return a user's own text in three parts.

    A .txt file is one text, cut as each novel of austen is. The documents of a .jsonl or .parquet file stay
    whole: a twentieth of them, by a fixed pseudo-random rank, are validation, another test.

    Args:
        path: A file, or a folder whose files are taken in the order of their names.
        max_bytes: Most text in all.

    Raises:
        DataError: If a file is missing, damaged or empty, or there is more text than that.
    """
    parts, left = [], max_bytes
    for file in list_text_files(path):
        if file.suffix == ".txt":
            text = read_text(file, left)
            parts.append(_cut(text))
            left -= len(text.encode("utf-8"))
        else:
            documents, is_whole = read_documents(file, left)
            if not is_whole:
                raise DataError(f"{file}: more than {left} bytes of text, the cap for this text")
            parts.append(_deal(documents, file))
            left -= sum(len(document.encode("utf-8")) for document in documents)
    return _join(parts)


def build_windows(
    name: str, texts: Texts, config: TextConfig
) -> tuple[tuple[ArraySplit, ArraySplit, ArraySplit], tuple[str, ...]]:
    """Return the three parts as windows of tokens, and the name of every token.

    Tokens are kept in the smallest of uint8, uint16 and int32 that holds the vocabulary: an eighth of int64,
    which is what a batch holds.

    Args:
        name: Of the set, for sources and messages.
        texts: Segments per part.
        config: What a token is, and how many make a window.

    Raises:
        DataError: If a part does not fill one window.
    """
    vocabulary = _list_vocabulary(texts.train) if config.tokens == "characters" else None
    size = 256 if vocabulary is None else len(vocabulary) + 1
    dtype = next(d for d, limit in _TOKEN_TYPES if size <= limit)
    parts = []
    for part, segments in (("train", texts.train), ("validation", texts.validation), ("test", texts.test)):
        source = f"{name}/{part}/{config.tokens}-{config.context}"
        parts.append(_build_part(source, segments, vocabulary, config, dtype))
    train, validation, test = parts
    held_out = (_choose_held_out(name, split, config.max_held_out_windows) for split in (validation, test))
    return (train, *held_out), _name_tokens(vocabulary)  # type: ignore[return-value]


_TOKEN_TYPES = ((torch.uint8, 1 << 8), (torch.uint16, 1 << 16), (torch.int32, 1 << 31))


def _cut(text: str) -> Texts:
    n = len(text)
    first, second = n * _TRAIN_TENTHS // 10, n * _VALIDATION_TWENTIETHS // 20
    return Texts(train=(text[:first],), validation=(text[first:second],), test=(text[second:],))


def _deal(documents: Sequence[str], file: Path) -> Texts:
    order = sorted(range(len(documents)), key=lambda row: rank_row("text", row))
    share = max(1, len(documents) // _HELD_OUT_SHARE)
    chosen = [sorted(order[2 * share :]), sorted(order[:share]), sorted(order[share : 2 * share])]
    if not all(chosen):
        raise DataError(f"{file}: {len(documents)} documents; expected 3 or more, to train and to measure")
    for number, document in enumerate(documents):
        if SEPARATOR in document:
            raise DataError(
                f"{file}: document {number} holds the character NUL, which stands between documents"
            )
    train, validation, test = ((SEPARATOR.join(documents[row] for row in rows),) for rows in chosen)
    return Texts(train=train, validation=validation, test=test)


def _join(parts: Sequence[Texts]) -> Texts:
    return Texts(
        train=tuple(segment for part in parts for segment in part.train),
        validation=tuple(segment for part in parts for segment in part.validation),
        test=tuple(segment for part in parts for segment in part.test),
    )


def _read_stories(files: Sequence[Path], max_bytes: int) -> list[str]:
    stories: list[str] = []
    left = max_bytes
    for file in files:
        if file.suffix == ".txt":
            found, is_whole = split_stories(file, STORY_END, left)
        else:
            found, is_whole = read_documents(file, left)
        for number, story in enumerate(found):
            if SEPARATOR in story:
                raise DataError(
                    f"{file}: story {number} holds the character NUL, which stands between stories"
                )
        stories += found
        left -= sum(len(story.encode("utf-8")) for story in found)
        if not is_whole or left <= 0:
            break
    return stories


def _list_vocabulary(segments: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Return the code points of the training part, ascending."""
    return np.unique(np.concatenate([_code_points(segment) for segment in segments]))


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


def _encode(text: str, vocabulary: npt.NDArray[np.uint32] | None) -> npt.NDArray[np.int64]:
    if vocabulary is None:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
    points = _code_points(text)
    place = np.minimum(np.searchsorted(vocabulary, points), len(vocabulary) - 1)
    return np.where(vocabulary[place] == points, place + 1, 0).astype(np.int64)


def _build_part(
    source: str,
    segments: Sequence[str],
    vocabulary: npt.NDArray[np.uint32] | None,
    config: TextConfig,
    dtype: torch.dtype,
) -> ArraySplit:
    inputs, targets, longest = [], [], 0
    for segment in segments:
        tokens = torch.from_numpy(_encode(segment, vocabulary)).to(dtype)
        longest = max(longest, len(tokens))
        used = max(len(tokens) - 1, 0) // config.context * config.context
        inputs.append(tokens[:used].view(-1, config.context))
        targets.append(tokens[1 : used + 1].view(-1, config.context))
    windows = torch.cat(inputs) if inputs else torch.empty(0, config.context)
    if not len(windows):
        raise DataError(
            f"{source}: the longest text of this part has {longest} tokens; one window takes "
            f"{config.context + 1}: give more text, or a smaller text.context"
        )
    return ArraySplit(inputs=windows, targets=torch.cat(targets), source=source)


def _choose_held_out(name: str, split: ArraySplit, limit: int) -> ArraySplit:
    if split.num_items <= limit:
        return split
    rows = choose_rows(f"{name}/windows", split.num_items, limit)
    return split.rows(rows, f"{split.source}/{limit}-windows")


def _name_tokens(vocabulary: npt.NDArray[np.uint32] | None) -> tuple[str, ...]:
    if vocabulary is not None:
        return (UNKNOWN_TOKEN, *(chr(point) for point in vocabulary.tolist()))
    return tuple(chr(byte) if 32 < byte < 127 else f"0x{byte:02X}" for byte in range(256))
