from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.tiny_texts import (
    TINY_NOVELS,
    write_jsonl,
    write_parquet,
    write_prose,
    write_stories,
    write_tiny_austen,
)
from esper.data import ArraySplit, LoadOptions, TextConfig, load_dataset
from esper.data.text import Texts, build_windows, read_austen, read_own, read_tinystories
from esper.leyline import ConfigError, DataError

LIMIT = 1 << 20


def _texts(train: str, held_out: str = "abcdefgh") -> Texts:
    return Texts(train=(train,), validation=(held_out,), test=(held_out,))


def _say(tokens: torch.Tensor, names: tuple[str, ...]) -> str:
    return "".join(names[token] for token in tokens.tolist())


def _characters(context: int = 3) -> TextConfig:
    return TextConfig(tokens="characters", context=context)


def test_windows_follow_each_other_and_targets_are_the_next_token() -> None:
    (train, _, _), names = build_windows("t", _texts("the cat sat"), _characters())
    assert [_say(row, names) for row in train.inputs] == ["the", " ca", "t s"]
    assert [_say(row, names) for row in train.targets] == ["he ", "cat", " sa"]


@given(text=st.text(min_size=1, max_size=60), context=st.integers(2, 7))
def test_every_window_is_a_piece_of_the_text_and_only_the_end_is_left_out(text: str, context: int) -> None:
    content = text.encode("utf-8", "ignore")
    kept = content.decode()
    if len(content) <= context:
        with pytest.raises(DataError, match="one window takes"):
            build_windows("t", _texts(kept, "x" * 20), TextConfig(context=context))
        return
    (train, _, _), _ = build_windows("t", _texts(kept, "x" * 20), TextConfig(context=context))
    assert train.num_items == (len(content) - 1) // context
    flat = bytes(train.inputs.flatten().tolist())
    assert content.startswith(flat)
    assert len(content) - len(flat) <= context
    assert bytes(train.targets.flatten().tolist()) == content[1 : len(flat) + 1]


def test_no_window_crosses_the_border_of_a_segment() -> None:
    texts = Texts(train=("aaaaaaa", "bbbbbbb", "c"), validation=("ab" * 4,), test=("ab" * 4,))
    (train, _, _), names = build_windows("t", texts, _characters())
    assert [_say(row, names) for row in train.inputs] == ["aaa", "aaa", "bbb", "bbb"]


def test_a_character_that_training_lacks_is_token_zero() -> None:
    (_, validation, _), names = build_windows("t", _texts("abab", "abzb"), _characters())
    assert names == ("<unknown>", "a", "b")
    assert validation.inputs.tolist() == [[1, 2, 0]]
    assert validation.targets.tolist() == [[2, 0, 2]]


def test_bytes_are_their_own_numbers() -> None:
    (train, _, _), names = build_windows("t", _texts("a\u00a3b c"), TextConfig(context=5))
    assert train.inputs.tolist() == [[97, 0xC2, 0xA3, 98, 32]]
    assert len(names) == 256
    assert (names[97], names[0xC2], names[32]) == ("a", "0xC2", "0x20")


@pytest.mark.parametrize(
    ("num_characters", "dtype"),
    [(255, torch.uint8), (256, torch.uint16), (65_535, torch.uint16), (65_536, torch.int32)],
)
def test_tokens_are_kept_in_the_smallest_type(num_characters: int, dtype: torch.dtype) -> None:
    text = "".join(chr(0x1_0000 + number) for number in range(num_characters))
    (train, validation, _), names = build_windows("t", _texts(text, text[-8:]), _characters())
    assert len(names) == num_characters + 1
    assert train.inputs.dtype == train.targets.dtype == dtype
    assert validation.inputs.to(torch.int64).flatten().tolist() == list(
        range(num_characters - 7, num_characters - 1)
    )


def test_held_out_windows_are_limited_to_a_fixed_choice() -> None:
    text = write_prose(3000)
    every = build_windows("t", _texts(text, text), TextConfig(context=8))[0][1]
    few, again = (
        build_windows("t", _texts(text, text), TextConfig(context=8, max_held_out_windows=9))[0][1]
        for _ in range(2)
    )
    assert every.num_items == 374
    assert few.num_items == 9
    assert torch.equal(few.inputs, again.inputs)
    rows = {tuple(row) for row in every.inputs.tolist()}
    assert all(tuple(row) in rows for row in few.inputs.tolist())


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_that_fills_no_window_is_named(part: str) -> None:
    segments = {"train": ("abcdef",), "validation": ("abcdef",), "test": ("abcdef",), part: ("abc",)}
    with pytest.raises(DataError, match=rf"t/{part}/.*: the longest text of this part has 3 tokens"):
        build_windows("t", Texts(**segments), _characters())


def test_each_novel_is_in_every_part(tmp_path: Path) -> None:
    folder = write_tiny_austen(tmp_path)
    whole = (folder / "austen.txt").read_text()
    texts = read_austen(folder, TINY_NOVELS)
    assert [len(part) for part in texts.train] == [810, 630]
    assert [len(part) for part in texts.validation] == [45, 35]
    for number, (start, length) in enumerate(TINY_NOVELS):
        joined = texts.train[number] + texts.validation[number] + texts.test[number]
        assert joined == whole[start : start + length]


@pytest.mark.parametrize("change", [-1, 1])
def test_an_austen_file_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    path = write_tiny_austen(tmp_path) / "austen.txt"
    text = path.read_text().rstrip("\n")
    path.write_text(text[:-1] if change < 0 else text + "x")
    with pytest.raises(DataError, match="expected 1603"):
        read_austen(path.parent, TINY_NOVELS)


def _stories(count: int) -> list[str]:
    return [f"Story {number}. {write_prose(30, number)}".strip() for number in range(count)]


def _write_tinystories(folder: Path, kind: str) -> None:
    train, valid = _stories(12), [story.upper() for story in _stories(5)]
    if kind == "txt":
        write_stories(folder / "TinyStoriesV2-GPT4-train.txt", train)
        write_stories(folder / "TinyStoriesV2-GPT4-valid.txt", valid)
        return
    write = write_jsonl if kind == "jsonl" else write_parquet
    write(folder / f"train-00000-of-00002.{kind}", train[:7])
    write(folder / f"train-00001-of-00002.{kind}", train[7:])
    write(folder / f"validation-00000-of-00001.{kind}", valid)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_stories_of_every_form_give_the_same_texts(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "tinystories"
    _write_tinystories(folder, kind)
    texts = read_tinystories(folder, LIMIT)
    assert texts.train == ("\0".join(_stories(12)),)
    assert texts.validation == ("\0".join(story.upper() for story in _stories(5)[:3]),)
    assert texts.test == ("\0".join(story.upper() for story in _stories(5)[3:]),)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_stories_end_at_the_cap_with_a_whole_story(tmp_path: Path, kind: str) -> None:
    _write_tinystories(tmp_path, kind)
    stories = read_tinystories(tmp_path, 450).train[0].split("\0")
    assert 3 <= len(stories) < 12
    assert stories == _stories(12)[: len(stories)]


def test_a_story_with_the_separator_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["a", "b\0c"])
    write_jsonl(tmp_path / "valid.jsonl", ["a", "b"])
    with pytest.raises(DataError, match=r"train\.jsonl: story 1 holds the character NUL"):
        read_tinystories(tmp_path, LIMIT)


def test_a_text_of_ones_own_is_cut_at_nine_tenths(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("0123456789" * 10)
    texts = read_own(path, LIMIT)
    assert texts == Texts(train=("0123456789" * 9,), validation=("01234",), test=("56789",))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_documents_of_ones_own_stay_whole_and_each_is_in_one_part(tmp_path: Path, kind: str) -> None:
    documents = [f"document {number}" for number in range(100)]
    path = tmp_path / f"a.{kind}"
    (write_jsonl if kind == "jsonl" else write_parquet)(path, documents)
    texts = read_own(path, LIMIT)
    parts = [part[0].split("\0") for part in (texts.train, texts.validation, texts.test)]
    assert [len(part) for part in parts] == [90, 5, 5]
    assert sorted(document for part in parts for document in part) == sorted(documents)
    assert all(part == sorted(part, key=documents.index) for part in parts)


def test_a_folder_of_ones_own_is_every_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    write_jsonl(tmp_path / "b.jsonl", ["x", "y", "z"])
    texts = read_own(tmp_path, LIMIT)
    assert texts.train[0] == "a" * 90
    assert len(texts.train) == len(texts.validation) == len(texts.test) == 2


@pytest.mark.parametrize(
    ("files", "limit", "reason"),
    [
        ({"a.txt": "x" * 50}, 49, "more than 49 bytes"),
        ({"a.txt": "x" * 30, "b.txt": "x" * 30}, 50, r"b\.txt: more than 20 bytes"),
        ({"a.jsonl": '{"text": "aaaaaaaaaa"}\n' * 3}, 25, "more than 25 bytes of text"),
        ({"a.jsonl": '{"text": "a"}\n{"text": "b"}\n'}, LIMIT, "2 documents; expected 3 or more"),
        ({"a.jsonl": '{"text": "a"}\n{"text": "b"}\n{"text": "\\u0000"}\n'}, LIMIT, "document 2 holds the"),
    ],
)
def test_own_text_that_cannot_serve_is_refused(
    tmp_path: Path, files: dict[str, str], limit: int, reason: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        read_own(tmp_path, limit)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", "words"),
        ("context", 1),
        ("max_mb", 0.0),
        ("max_mb", float("nan")),
        ("max_held_out_windows", 1),
    ],
)
def test_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"text\.{field}="):
        TextConfig(**{field: value})  # type: ignore[arg-type]


def test_a_text_task_loads_with_vocabulary_and_without_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(write_prose(2000))
    data = load_dataset("text", options=LoadOptions(text=TextConfig(file=str(path), context=16)))
    assert (data.mean, data.std, data.num_classes, data.input_shape) == ((), (), 256, (16,))
    assert data.train.is_tokens
    assert str(path) in data.train.source
    few = load_dataset(
        "text", options=LoadOptions(num_train_rows=20, text=TextConfig(file=str(path), context=16))
    )
    assert few.train.num_items == 20


def test_tinystories_are_found_in_their_folder(tmp_path: Path) -> None:
    _write_tinystories(tmp_path / "TinyStories", "parquet")
    data = load_dataset("tinystories", tmp_path, LoadOptions(text=TextConfig(context=8, tokens="characters")))
    assert data.class_names[:2] == ("<unknown>", "\0")
    assert "CDLA" in data.licence


def test_text_settings_that_do_not_fit_a_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits is no text"):
        load_dataset("digits", options=LoadOptions(text=TextConfig(context=8)))
    with pytest.raises(ConfigError, match="name the text to learn"):
        load_dataset("text")
    with pytest.raises(ConfigError, match="austen reads files of its own"):
        load_dataset("austen", tmp_path, LoadOptions(text=TextConfig(file="x.txt")))


def test_a_split_of_tokens_needs_targets_like_its_inputs() -> None:
    tokens = torch.zeros(3, 4, dtype=torch.uint8)
    assert ArraySplit(inputs=tokens, targets=tokens).input_shape == (4,)
    for bad in (tokens.to(torch.int32), tokens[:, :3], tokens[:2]):
        with pytest.raises(DataError, match="expected the same type"):
            ArraySplit(inputs=tokens, targets=bad)
    with pytest.raises(DataError, match="hold no items"):
        ArraySplit(inputs=tokens[:0], targets=tokens[:0])
