from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.formats import idx_bytes
from esper.data.reading import read_bytes, read_idx, read_npz
from esper.leyline import DataError

CAP = 1 << 20
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
GOOD = idx_bytes(IMAGES)


def _npz(**arrays: np.typing.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, **arrays)
    return stream.getvalue()


def _zip(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("is_packed", [True, False])
def test_idx_is_read_plain_and_packed(tmp_path: Path, is_packed: bool) -> None:
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(GOOD, mtime=0) if is_packed else GOOD)
    assert np.array_equal(read_idx(path, 3, CAP), IMAGES)


@pytest.mark.battery("T44")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "ends at byte 0"),
        (GOOD[:7], "ends at byte 7"),
        (b"\1" + GOOD[1:], "byte 0"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "byte 2: type 0x0d"),
        (GOOD[:3] + b"\2" + GOOD[4:], "byte 3: 2 dimensions"),
        (GOOD[:-1], "byte 16: 23 bytes of values"),
        (GOOD + b"\0", "byte 16: 25 bytes of values"),
        (GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + GOOD[16:], "byte 16: 24 bytes"),
        (GOOD[:4] + struct.pack(">3I", 0, 3, 4), "byte 4: a size is 0"),
        (gzip.compress(GOOD, mtime=0)[:-9], "unreadable after"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 20, "unreadable after"),
        (gzip.compress(GOOD, mtime=0) + b"junk", "unreadable after"),
    ],
)
def test_broken_idx_is_refused_naming_file_and_byte(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        read_idx(path, 3, CAP)
    assert str(path) in str(caught.value)


def test_decompression_stops_at_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(1 << 22), mtime=0))
    with pytest.raises(DataError, match="more than 1000 decompressed bytes"):
        read_bytes(path, 1000)
    path.write_bytes(gzip.compress(bytes(1000), mtime=0))
    assert len(read_bytes(path, 1000)) == 1000


def test_folder_or_missing_file_is_a_data_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="unreadable after 0 bytes"):
            read_bytes(path, CAP)
        with pytest.raises(DataError, match="unreadable"):
            read_npz(path, ("x",), CAP)


def test_npz_returns_the_named_arrays_only(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_npz(x=IMAGES, other=np.array([None, {}], dtype=object)))
    arrays = read_npz(path, ("x",), CAP)
    assert list(arrays) == ["x"]
    assert np.array_equal(arrays["x"], IMAGES)


def test_npz_object_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_npz(x=np.array([None, {}], dtype=object)))
    with pytest.raises(DataError, match="array 'x': holds Python objects"):
        read_npz(path, ("x",), CAP)


def test_npz_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_npz(x=IMAGES))
    with pytest.raises(DataError, match="array 'y' is missing"):
        read_npz(path, ("x", "y"), CAP)


def test_npz_array_over_the_cap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_npz(x=IMAGES))
    with pytest.raises(DataError, match="the cap is 10"):
        read_npz(path, ("x",), 10)


def _npy(header: str, payload: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload


@pytest.mark.battery("T44")
@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"not an array",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x09\x00" + bytes(20),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -4)}", b"abcd"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", b"ab"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': 'x'}"),
        _npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}", b"a"),
        _npy("{'descr': '|u1'"),
        _npy("((((('"),
        _npy("(" * 5000),
    ],
)
def test_npz_with_a_lying_member_is_refused(tmp_path: Path, member: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_zip("x.npy", member))
    with pytest.raises(DataError, match="array 'x'"):
        read_npz(path, ("x",), CAP)


@pytest.mark.battery("T44")
@given(
    base=st.sampled_from([GOOD, gzip.compress(GOOD, mtime=0), _npz(x=IMAGES)]),
    place=st.floats(0, 1, exclude_max=True),
    patch=st.binary(min_size=1, max_size=8),
    keep=st.floats(0, 1),
)
def test_any_damage_is_a_data_error_or_harmless(base: bytes, place: float, patch: bytes, keep: float) -> None:
    start = int(place * len(base))
    damaged = (base[:start] + patch + base[start + len(patch) :])[: int(keep * len(base)) or None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(damaged)
        for read in (lambda: read_idx(path, 3, CAP), lambda: read_npz(path, ("x",), CAP)):
            try:
                read()
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017 - either outcome is right
