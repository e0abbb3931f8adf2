"""Writes checkpoint directories that are sealed as ours but hold what we would never write."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from esper.leyline import JsonValue
from esper.tolaria.checkpoint.manifest import STATE_FILE, TENSOR_FILE, seal_manifest

EMPTY_STATE = b'{"aliases":{},"state":{}}'


def build_tensor_bytes(
    header: bytes | Mapping[str, object], data: bytes = b"", length: int | None = None
) -> bytes:
    """Return the bytes of a safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def build_entry(begin: int, end: int, shape: list[object], dtype: str = "F32") -> dict[str, object]:
    """Return the header entry of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def build_body(tensors: bytes, state: bytes, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return the content of a manifest that fits these files, with some keys replaced."""
    files: dict[str, JsonValue] = {
        name: {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in ((TENSOR_FILE, tensors), (STATE_FILE, state))
    }
    body: dict[str, JsonValue] = {
        "format_version": 1,
        "kind": "run",
        "esper_version": "0.1.0",
        "torch_version": "2.13.0",
        "created": "2026-01-01T00:00:00+00:00",
        "topology_hash": "0" * 64,
        "files": files,
    }
    return body | changes


def reseal(path: Path, change: Callable[[dict[str, JsonValue]], object] = id, **changes: JsonValue) -> None:
    """Change the state of a checkpoint, or keys of its manifest, and make all hashes fit again."""
    content = json.loads((path / STATE_FILE).read_bytes())
    change(content["state"])
    state = json.dumps(content).encode()
    (path / STATE_FILE).write_bytes(state)
    body = json.loads((path / "MANIFEST.json").read_bytes())
    del body["manifest_sha256"]
    body["files"][STATE_FILE] = {"num_bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    (path / "MANIFEST.json").write_bytes(seal_manifest(body | changes))


def write_sealed(path: Path, tensors: bytes, state: bytes = EMPTY_STATE, **changes: JsonValue) -> Path:
    """Write a checkpoint directory whose hashes all fit."""
    path.mkdir(parents=True)
    (path / TENSOR_FILE).write_bytes(tensors)
    (path / STATE_FILE).write_bytes(state)
    (path / "MANIFEST.json").write_bytes(seal_manifest(build_body(tensors, state, **changes)))
    return path
