"""Bounded reading of untrusted files: plain or gzip bytes, IDX arrays, npz arrays.

Every failure is a `DataError` that names the file and the byte; no reader allocates what a header merely
claims, and none unpickles. Knows nothing of data sets.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from esper.leyline import DataError

_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_IDX_UINT8 = 8


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file, decompressed if it starts like a gzip file.

    Args:
        path: The file.
        max_bytes: Refuse more decompressed bytes than this.

    Raises:
        DataError: If the file cannot be read, is a damaged or truncated gzip file, or exceeds `max_bytes`.
    """
    parts: list[bytes] = []
    num_bytes = 0
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            while chunk := stream.read(min(_CHUNK_BYTES, max_bytes + 1 - num_bytes)):
                parts.append(chunk)
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise DataError(
                        f"{path}: more than {max_bytes} decompressed bytes, the cap for this file"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: unreadable after {num_bytes} bytes ({error}); expected a whole file, plain or gzip"
        ) from error
    return b"".join(parts)


def read_idx(path: Path, num_dims: int, max_bytes: int) -> npt.NDArray[np.uint8]:
    """Return the uint8 array of an IDX file (two zero bytes, type byte 8, dimension count, big-endian sizes).

    Args:
        path: The file, plain or gzip.
        num_dims: How many dimensions it must have.
        max_bytes: Cap on the decompressed size.

    Returns:
        Array of the shape that the file states; a read-only view of the file's bytes.

    Raises:
        DataError: Naming the file and the byte, if the header or the payload length is wrong or a size is 0.
    """
    raw = read_bytes(path, max_bytes)
    header_bytes = 4 + 4 * num_dims
    if len(raw) < header_bytes:
        raise DataError(f"{path}: ends at byte {len(raw)}; expected an IDX header of {header_bytes} bytes")
    if raw[:2] != b"\0\0":
        raise DataError(
            f"{path}: byte 0: starts with {raw[:2].hex()}; an IDX file starts with two zero bytes"
        )
    if raw[2] != _IDX_UINT8:
        raise DataError(f"{path}: byte 2: type {raw[2]:#04x}; expected 0x08 (uint8)")
    if raw[3] != num_dims:
        raise DataError(f"{path}: byte 3: {raw[3]} dimensions; expected {num_dims}")
    shape = struct.unpack_from(f">{num_dims}I", raw, 4)
    if 0 in shape:
        raise DataError(
            f"{path}: byte {4 + 4 * shape.index(0)}: a size is 0 in {list(shape)}; expected >= 1 item"
        )
    payload = len(raw) - header_bytes
    if payload != math.prod(shape):
        raise DataError(
            f"{path}: byte {header_bytes}: {payload} bytes of values; sizes {list(shape)} need "
            f"{math.prod(shape)}"
        )
    return np.frombuffer(raw, np.uint8, offset=header_bytes).reshape(shape)


def read_npz(path: Path, names: Sequence[str], max_bytes: int) -> Mapping[str, npt.NDArray[np.generic]]:
    """Return the named arrays of an npz archive; object arrays are refused, never unpickled.

    Args:
        path: The archive.
        names: The arrays that must be there; others are not read.
        max_bytes: Cap on the decompressed size of each array.

    Raises:
        DataError: Naming the file and the array.
    """
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = frozenset(archive.namelist())
            for name in names:
                if f"{name}.npy" not in members:
                    raise DataError(f"{path}: array {name!r} is missing; the archive holds {sorted(members)}")
                arrays[name] = _read_member(archive, path, name, max_bytes)
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: unreadable ({error}); expected an npz archive") from error
    return arrays


def _read_member(archive: zipfile.ZipFile, path: Path, name: str, max_bytes: int) -> npt.NDArray[np.generic]:
    where = f"{path}: array {name!r}"
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > max_bytes:
        raise DataError(f"{where}: {info.file_size} bytes; the cap is {max_bytes}")
    try:
        stream = io.BytesIO(archive.read(info))
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        if dtype.hasobject:
            raise DataError(f"{where}: holds Python objects; expected plain numbers or text")
        payload = info.file_size - stream.tell()
        if payload != math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"{where}: byte {stream.tell()}: {payload} bytes of values; {dtype} {list(shape)} needs "
                "others"
            )
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, SyntaxError, MemoryError) as error:
        raise DataError(f"{where}: damaged ({error})") from error
    except (tokenize.TokenError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: damaged ({error})") from error
    result: npt.NDArray[np.generic] = array
    return result
