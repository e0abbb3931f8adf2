from __future__ import annotations

import os
import pickle  # noqa: TID251 - writes hostile files that the reader must refuse
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.formats import cifar_records, write_cifar
from esper.data.cifar10 import load_cifar10, read_python_file
from esper.leyline import DataError


class _Call:
    """Unpickles to the result of a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_binary_layout_gives_channels_last_images(tmp_path: Path) -> None:
    train, validation, test = load_cifar10(write_cifar(tmp_path), num_file_records=4)
    assert (train.num_items, validation.num_items, test.num_items) == (18, 2, 4)
    pixels, labels = cifar_records(4, 0)
    assert tuple(train.inputs.shape[1:]) == (32, 32, 3)
    assert train.inputs[1, 2, 5].tolist() == [int(pixels[1, plane * 1024 + 2 * 32 + 5]) for plane in range(3)]
    assert train.targets[:4].tolist() == labels


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_python_layout_equals_binary_layout(tmp_path: Path, protocol: int) -> None:
    plain = load_cifar10(write_cifar(tmp_path / "bin"), num_file_records=4)
    folder = write_cifar(tmp_path / "py", is_binary=False, protocol=protocol)
    for first, second in zip(plain, load_cifar10(folder, num_file_records=4), strict=True):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)


def _published_form(pixels: bytes) -> bytes:
    """One record as Python 2 wrote the published files: protocol 2, text opcodes, old module name."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI3072\nt"
        b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nT"
    )
    return b"\x80\x02}(U\x04data" + array + struct.pack("<i", len(pixels)) + pixels + b"tbU\x06labels]I3\nau."


def test_python_layout_as_published_is_read(tmp_path: Path) -> None:
    pixels = bytes(range(256)) * 12
    path = tmp_path / "test_batch"
    path.write_bytes(_published_form(pixels))
    images, labels = read_python_file(path, 1)
    assert labels.tolist() == [3]
    assert images.permute(0, 3, 1, 2).reshape(-1).numpy().tobytes() == pixels


def test_python_array_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(_published_form(bytes(3071)))
    with pytest.raises(DataError, match="holds other than 3072 bytes"):
        read_python_file(path, 1)


@pytest.mark.battery("T44")
@pytest.mark.parametrize("change", [-1, 1])
def test_binary_file_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    path = write_cifar(tmp_path) / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"\0")
    with pytest.raises(DataError, match=r"batch_3\.bin: length differs from 12292 bytes at byte 1229[12]"):
        load_cifar10(tmp_path, num_file_records=4)


@pytest.mark.battery("T44")
def test_binary_label_out_of_range_names_the_record(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "data_batch_1.bin"
    content = bytearray(path.read_bytes())
    content[2 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="record 2 has label 10"):
        load_cifar10(tmp_path, num_file_records=4)


def test_missing_batch_is_named(tmp_path: Path) -> None:
    (write_cifar(tmp_path) / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin"):
        load_cifar10(tmp_path, num_file_records=4)
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        load_cifar10(tmp_path / "empty", num_file_records=4)


def test_too_few_rows_for_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 10"):
        load_cifar10(write_cifar(tmp_path, num_records=1), num_file_records=1)


@pytest.mark.parametrize(
    "call",
    [
        _Call(os.system, "echo unsafe"),
        _Call(eval, "1 + 1"),
        _Call(getattr, "a", "upper"),
        _Call(np.ndarray, (10**12,)),
        _Call(np.load, "file"),
        _Call(bytes.fromhex, "00"),
    ],
)
def test_python_file_that_calls_anything_else_is_refused(tmp_path: Path, call: _Call) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({b"data": call, b"labels": [0]}, protocol=2))
    with pytest.raises(DataError, match="test_batch"):
        read_python_file(path, 1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds a list"),
        ({b"labels": [0]}, "b'data' is a NoneType"),
        ({b"data": b"x", b"labels": [0]}, "b'data' is a bytes"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0.5]}, "opcode BINFLOAT is refused"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["0"]}, "not a list of whole numbers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "not a list of whole numbers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [11]}, "record 0 has label 11"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "not a list of whole numbers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}, "2 labels; expected 1"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, r"\(2, 3072\)"),
        ({b"data": np.zeros((1, 3072), np.int8), b"labels": [0]}, "'i1'"),
        ({b"data": np.array([None] * 3072, dtype=object).reshape(1, 3072), b"labels": [0]}, "'O8'"),
    ],
)
def test_python_file_with_other_content_is_refused(tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=told):
        read_python_file(path, 1)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (b"", "not a readable"),
        (b"\x80\x04", "not a readable"),
        (b"\x80\x02Pname\n.", "byte 2: opcode PERSID is refused"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "opcode NEWOBJ is refused"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "byte 3: object number 4294967295 is refused"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "a name is given a state"),
        (b"\x80\x02cnumpy\ndtype\n)R.", "not a readable"),
        (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x74R.", "text encoding"),
        (
            b"\x80\x02}(U\x04datacnumpy._core.multiarray\n_reconstruct\n)RU\x06labels]K\x00au.",
            "no array state",
        ),
    ],
)
def test_damaged_python_stream_is_refused(tmp_path: Path, stream: bytes, told: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(stream)
    with pytest.raises(DataError, match=told):
        read_python_file(path, 1)


_SMALL = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)[:, :3], b"labels": [0]}, protocol=2)


@pytest.mark.battery("T44")
@given(place=st.integers(0, len(_SMALL) - 1), patch=st.binary(min_size=1, max_size=4))
def test_any_damage_to_a_python_file_is_a_data_error(place: int, patch: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_batch"
        path.write_bytes(_SMALL[:place] + patch + _SMALL[place + len(patch) :])
        with pytest.raises(DataError):
            read_python_file(path, 1)
