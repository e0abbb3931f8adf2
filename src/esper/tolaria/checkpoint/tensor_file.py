"""tensors.safetensors: tensors to bytes and back; the header is checked here before the library sees it.

Layout of the bytes: header length (8 bytes, little endian), header (JSON: name to dtype, shape and
[begin, end) in the data), data. Knows bytes, not files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from esper.leyline import JsonValue
from esper.tolaria.checkpoint.strict_json import parse_json

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
MAX_RANK = 32

_LENGTH_BYTES = 8
_MAX_ADDRESS = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9_.:/#-]{1,256}")
_METADATA = "__metadata__"
_METADATA_QUOTES = 1000
"""Quotation marks that a header may have beyond those of its tensors; we write no metadata at all."""
_DTYPES = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.complex64: "C64",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint64: "U64",
        torch.uint32: "U32",
        torch.uint16: "U16",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
)
_ITEM_BYTES = MappingProxyType({code: dtype.itemsize for dtype, code in _DTYPES.items()})


def encode_tensors(tensors: Mapping[str, Tensor], *, max_tensor_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Return the file and its aliases.

    Two names of the very same view (storage, offset, shape, strides) are stored once. Views that overlap in
    another way are stored each by value. Data is made contiguous and moved to the CPU.

    Args:
        tensors: By name; dense, of a dtype that safetensors has.
        max_tensor_bytes: Largest accepted sum of their data.

    Returns:
        The bytes, and for each name that is not stored itself the name that holds its data.

    Raises:
        ValueError: If a name, layout or dtype cannot be stored, or there is too much.
    """
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"{len(tensors)} tensors, at most {MAX_TENSORS} can be saved")
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        _check_storable(name, tensor)
        owner = owners.setdefault(_view_key(tensor), name) if tensor.numel() > 0 else name
        if owner != name:
            aliases[name] = owner
        else:
            stored[name] = tensor
    num_bytes = sum(tensor.numel() * tensor.dtype.itemsize for tensor in stored.values())
    if num_bytes > max_tensor_bytes:
        raise ValueError(f"{num_bytes} bytes of tensors, max_tensor_bytes is {max_tensor_bytes}")
    data = safetensors.torch.save(_to_plain(stored))
    header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"{header_bytes} bytes of tensor names and shapes, at most {MAX_HEADER_BYTES}")
    return data, aliases


def parse_tensors(data: bytes, aliases: Mapping[str, str], *, max_tensor_bytes: int) -> dict[str, Tensor]:
    """Return the tensors, aliases included, sorted by name, on the CPU.

    Args:
        data: The content of the file.
        aliases: As `encode_tensors` returned them.
        max_tensor_bytes: Largest accepted length of the data behind the header.

    Raises:
        ValueError: If anything is wrong; header limits are checked before anything is allocated.
    """
    check_header(data, max_tensor_bytes=max_tensor_bytes)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"refused by safetensors: {error}") from error
    if len(tensors) + len(aliases) > MAX_TENSORS:
        raise ValueError(f"{len(tensors) + len(aliases)} tensors, at most {MAX_TENSORS} are read")
    for alias, owner in aliases.items():
        _check_name(alias)
        if alias in tensors or owner not in tensors or owner in aliases:
            raise ValueError(f"tensor name {alias!r} cannot stand for {owner[:80]!r}")
    named = tensors | {alias: tensors[owner] for alias, owner in aliases.items()}
    return {name: named[name] for name in sorted(named)}


def check_header(data: bytes, *, max_tensor_bytes: int) -> int:
    """Check a safetensors file without allocating for what it claims; return the number of tensors.

    Args:
        data: The whole file.
        max_tensor_bytes: Largest accepted length of the data behind the header.

    Raises:
        ValueError: For a header length out of range, malformed or duplicate entries, unknown dtypes, shapes
            whose product overflows, and data ranges that overlap, leave holes or leave the file.
    """
    if len(data) < _LENGTH_BYTES:
        raise ValueError(f"{len(data)} bytes are too few for a header length")
    header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - _LENGTH_BYTES):
        raise ValueError(
            f"header of {header_bytes} bytes in a file of {len(data)}, at most {MAX_HEADER_BYTES} are read"
        )
    data_bytes = len(data) - _LENGTH_BYTES - header_bytes
    if data_bytes > max_tensor_bytes:
        raise ValueError(f"{data_bytes} bytes of tensors, max_tensor_bytes is {max_tensor_bytes}")
    header = _parse_header(data[_LENGTH_BYTES : _LENGTH_BYTES + header_bytes])
    if not isinstance(header, Mapping):
        raise ValueError("the header is not an object")
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"{len(entries)} tensors, at most {MAX_TENSORS} are read")
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, Mapping) or not all(isinstance(item, str) for item in metadata.values()):
        raise ValueError("the metadata must map strings to strings")
    ranges = sorted(_check_entry(name, entry) for name, entry in entries.items())
    for (_, end), (begin, _) in pairwise([(0, 0), *ranges, (data_bytes, data_bytes)]):
        if begin != end:
            raise ValueError(
                f"data ranges leave a hole or overlap: one ends at {end}, the next is at {begin}"
            )
    return len(entries)


def _parse_header(text: bytes) -> JsonValue:
    # Per tensor five strings, one object and two arrays; beside them the header itself and its metadata.
    if text.count(b'"') > 10 * MAX_TENSORS + _METADATA_QUOTES:
        raise ValueError(f"more strings than {MAX_TENSORS} tensors have")
    return parse_json(text, max_bytes=MAX_HEADER_BYTES, max_containers=3 * MAX_TENSORS + 2)


def _check_entry(name: str, entry: JsonValue) -> tuple[int, int]:
    """Return [begin, end) of a tensor's data."""
    _check_name(name)
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets, and nothing else")
    code = entry["dtype"]
    if not isinstance(code, str) or code not in _ITEM_BYTES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {str(code)[:80]!r}")
    shape = _sizes(name, "shape", entry["shape"])
    offsets = _sizes(name, "data_offsets", entry["data_offsets"])
    num_bytes = extent = _ITEM_BYTES[code]
    for size in shape:
        num_bytes *= size
        extent *= max(size, 1)
        # The product without its zeros: strides of an empty tensor are computed from it.
        if extent > _MAX_ADDRESS:
            raise ValueError(f"tensor {name!r}: the product of its shape overflows")
    if len(offsets) != 2 or offsets[1] - offsets[0] != num_bytes:
        raise ValueError(f"tensor {name!r} needs {num_bytes} bytes of data, data_offsets say otherwise")
    return offsets[0], offsets[1]


def _sizes(name: str, key: str, value: JsonValue) -> list[int]:
    if not isinstance(value, list) or len(value) > MAX_RANK:
        raise ValueError(f"tensor {name!r}: {key} must be a list of at most {MAX_RANK} sizes")
    sizes = [item for item in value if isinstance(item, int) and not isinstance(item, bool)]
    if len(sizes) != len(value) or any(not 0 <= size <= _MAX_ADDRESS for size in sizes):
        raise ValueError(f"tensor {name!r}: {key} must hold integers in [0, 2**63)")
    return sizes


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == _METADATA:
        raise ValueError(f"tensor name {name[:80]!r} must match {_NAME.pattern} and not be {_METADATA}")


def _check_storable(name: str, tensor: Tensor) -> None:
    _check_name(name)
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in _DTYPES:
        raise ValueError(
            f"tensor {name!r} ({tensor.layout}, {tensor.dtype}, {tensor.device}) cannot be saved; expected "
            f"dense data of {', '.join(sorted(str(dtype) for dtype in _DTYPES))}"
        )


def _view_key(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors if and only if they are the same view of the same memory."""
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _to_plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detach, resolve lazy conjugation, move to the CPU; each result owns exactly its data.

    The library refuses tensors that share a storage, and would store only a part of a larger one.
    """
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        storage = dense.untyped_storage()
        is_part = storage.nbytes() != dense.numel() * dense.dtype.itemsize
        plain[name] = dense.clone() if is_part or storage.data_ptr() in storages else dense
        storages.add(storage.data_ptr())
    return plain
