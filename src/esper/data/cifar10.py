"""Reader of CIFAR-10 from a local folder: the binary layout, or the python layout without trusting it.

The python layout is a pickle. It is read here, and only here, in two steps: a scan that executes nothing
refuses every opcode that such a file does not need, and an unpickler resolves five names to inert stand-ins
of this file and refuses every other name. Knows nothing of where folders are searched, nor of devices.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251 - the one reviewed exception: every name resolves to an inert class of this file
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from esper.data.reading import read_bytes
from esper.data.splits import ArraySplit, check_labels
from esper.leyline import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""Class names of CIFAR-10, in the order of the labels."""

CIFAR10_FILE_RECORDS = 10_000
"""Records in each published file."""

_PIXEL_BYTES = 3072
_RECORD_BYTES = 1 + _PIXEL_BYTES
_VALIDATION_SHARE = 10
"""Validation is the last tenth of the training rows: 5,000 of 50,000."""
_TRAIN_STEMS = tuple(f"data_batch_{number}" for number in range(1, 6))
_PICKLE_OVERHEAD_BYTES = 1 << 22
_MAX_MEMO_INDEX = 1 << 18
"""Far above the 10,000 labels and file names of a file; the unpickler allocates up to the highest number."""
_ALLOWED_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"),
    *("GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("DICT", "EMPTY_DICT", "SETITEM", "SETITEMS", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
"""No floats, no classes, no objects by reference, no copy-on-load buffers."""
_PICKLE_FAILURES = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What a damaged pickle stream can raise; each becomes a `DataError`."""


def load_cifar10(
    folder: Path, *, num_file_records: int = CIFAR10_FILE_RECORDS
) -> tuple[ArraySplit, ArraySplit, ArraySplit]:
    """Return the train, validation and test parts: 45,000 / 5,000 / 10,000 rows.

    Validation is the last tenth of the training rows in file order. Inputs are [N, 32, 32, 3] uint8.

    Args:
        folder: Holds `data_batch_1.bin` to `_5.bin` and `test_batch.bin`, or the same names without `.bin`
            (python layout). The binary layout is taken where both are there.
        num_file_records: Records that each file must hold.

    Raises:
        DataError: If a file is missing, has another length, or is not of its layout.
    """
    is_binary = (folder / "test_batch.bin").is_file() or not (folder / "test_batch").is_file()
    read = read_binary_file if is_binary else read_python_file
    suffix = ".bin" if is_binary else ""
    parts = [read(folder / f"{stem}{suffix}", num_file_records) for stem in _TRAIN_STEMS]
    inputs = torch.cat([part[0] for part in parts])
    targets = torch.cat([part[1] for part in parts])
    test_inputs, test_targets = read(folder / f"test_batch{suffix}", num_file_records)
    num_train = inputs.shape[0] - inputs.shape[0] // _VALIDATION_SHARE
    if num_train == inputs.shape[0]:
        raise DataError(f"{folder}: {num_train} training records; expected at least {_VALIDATION_SHARE}")
    return (
        ArraySplit(inputs=inputs[:num_train], targets=targets[:num_train], source="cifar10/train"),
        ArraySplit(inputs=inputs[num_train:], targets=targets[num_train:], source="cifar10/validation"),
        ArraySplit(inputs=test_inputs, targets=test_targets, source="cifar10/test"),
    )


def read_binary_file(path: Path, num_records: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([N, 32, 32, 3] uint8, [N] int64) of records of one label byte and 3,072 bytes (R, G, B planes).

    Raises:
        DataError: If the length is not exactly `num_records` records or a label is not 0 to 9.
    """
    expected = num_records * _RECORD_BYTES
    raw = read_bytes(path, expected + 1)
    if len(raw) != expected:
        raise DataError(
            f"{path}: length differs from {expected} bytes at byte {min(len(raw), expected)}; expected "
            f"{num_records} "
            f"records of {_RECORD_BYTES} bytes"
        )
    table = np.frombuffer(raw, np.uint8).reshape(num_records, _RECORD_BYTES)
    return _as_tensors(path, table[:, 1:], table[:, 0].astype(np.int64))


def read_python_file(path: Path, num_records: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([N, 32, 32, 3] uint8, [N] int64) of a pickled dict with `b"data"` and `b"labels"`.

    Raises:
        DataError: If the file is damaged, asks for any name outside the fixed table, or holds other shapes.
    """
    raw = read_bytes(path, num_records * _RECORD_BYTES * 2 + _PICKLE_OVERHEAD_BYTES)
    try:
        _scan_opcodes(raw)
        content: object = _InertUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except _PICKLE_FAILURES as error:
        raise DataError(
            f"{path}: not a readable CIFAR-10 python file ({error}); the binary layout (.bin) is safer"
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: holds a {type(content).__name__}; expected a dict with b'data' and b'labels'"
        )
    data, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(data, _PickledArray):
        raise DataError(f"{path}: b'data' is a {type(data).__name__}; expected an array")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError(f"{path}: b'labels' is not a list of whole numbers 0 to 9")
    pixels = data.to_numpy(path, num_records)
    if len(labels) != num_records:
        raise DataError(f"{path}: {len(labels)} labels; expected {num_records}")
    return _as_tensors(path, pixels, np.array(labels, dtype=np.int64))


def _as_tensors(
    path: Path, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn [N, 3072] planes into [N, 32, 32, 3] and check the labels."""
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    targets = torch.from_numpy(labels)
    check_labels(targets, len(CIFAR10_CLASSES), str(path))
    return torch.from_numpy(images), targets


def _scan_opcodes(raw: bytes) -> None:
    """Refuse a stream with an opcode or a memo number that no CIFAR-10 file needs; executes nothing.

    Raises:
        pickle.UnpicklingError: Naming the byte.
    """
    for opcode, argument, place in pickletools.genops(raw):
        if opcode.name not in _ALLOWED_OPCODES:
            raise pickle.UnpicklingError(f"byte {place}: opcode {opcode.name} is refused")
        if opcode.name.endswith("PUT") and not 0 <= (argument or 0) <= _MAX_MEMO_INDEX:
            raise pickle.UnpicklingError(f"byte {place}: object number {argument} is refused")


@final
class _PickledDtype:
    """Stands in for a `numpy.dtype`: remembers the code ("u1") and ignores everything else."""

    __slots__ = ("code",)

    def __init__(self, code: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment: of no meaning for one-byte values."""


@final
class _PickledArray:
    """Stands in for a `numpy.ndarray`: keeps the state that the stream hands it, unread."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def to_numpy(self, path: Path, num_records: int) -> npt.NDArray[np.uint8]:
        """Return [num_records, 3072] uint8; raise unless the state says exactly that."""
        state = self.state
        wanted = f"uint8 [{num_records}, {_PIXEL_BYTES}]"
        if not (isinstance(state, tuple) and len(state) == 5):
            raise DataError(f"{path}: b'data' has no array state; expected {wanted}")
        _, shape, dtype, is_fortran, raw = state
        code = dtype.code if isinstance(dtype, _PickledDtype) else None
        if shape != (num_records, _PIXEL_BYTES) or code not in ("u1", b"u1") or is_fortran:
            raise DataError(f"{path}: b'data' is {code!r} {shape!r}; expected {wanted}")
        if not isinstance(raw, bytes) or len(raw) != num_records * _PIXEL_BYTES:
            raise DataError(f"{path}: b'data' holds other than {num_records * _PIXEL_BYTES} bytes of pixels")
        return np.frombuffer(raw, np.uint8).reshape(num_records, _PIXEL_BYTES)


@final
class _StandIn:
    """What an allowed name resolves to: can be called, cannot be given a state."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[[tuple[object, ...]], object]) -> None:
        self._build = build

    def __call__(self, *arguments: object) -> object:
        return self._build(arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a name is given a state, which is refused")


def _refuse_call(_arguments: tuple[object, ...]) -> object:
    raise pickle.UnpicklingError("numpy.ndarray is called, which is refused")


def _build_dtype(arguments: tuple[object, ...]) -> _PickledDtype:
    return _PickledDtype(arguments[0])


def _build_array(_arguments: tuple[object, ...]) -> _PickledArray:
    return _PickledArray()


def _build_bytes(arguments: tuple[object, ...]) -> bytes:
    """Encode as latin1, which is how protocols below 3 write bytes; nothing else."""
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text encoding {encoding!r} is refused")
    return text.encode("latin-1")


_ALLOWED_NAMES: MappingProxyType[tuple[str, str], _StandIn] = MappingProxyType(
    {
        ("numpy.core.multiarray", "_reconstruct"): _StandIn(_build_array),
        ("numpy._core.multiarray", "_reconstruct"): _StandIn(_build_array),
        ("numpy", "ndarray"): _StandIn(_refuse_call),
        ("numpy", "dtype"): _StandIn(_build_dtype),
        ("_codecs", "encode"): _StandIn(_build_bytes),
    }
)


@final
class _InertUnpickler(pickle.Unpickler):
    """An unpickler that knows five names and imports nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """Return the stand-in of an allowed name.

        Raises:
            pickle.UnpicklingError: For every other name.
        """
        found = _ALLOWED_NAMES.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"the file asks for {module_name}.{global_name}, which is refused")
        return found
