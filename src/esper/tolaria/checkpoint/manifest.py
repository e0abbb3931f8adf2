"""MANIFEST.json: what a checkpoint consists of, sealed with its own hash. Knows bytes, not files.

The seal is the SHA-256 of the rest of the manifest. It finds accidents; it does not authenticate: whoever
can write the directory can write a new seal.

Every later format keeps the keys `format_version` and `manifest_sha256` with this meaning, so that an older
program can tell a newer checkpoint from a damaged one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from esper.leyline import ForeignCheckpointError, JsonValue, canonical_hash
from esper.tolaria.checkpoint.strict_json import parse_json

FORMAT_VERSION = 1
MANIFEST_FILE = "MANIFEST.json"
TENSOR_FILE = "tensors.safetensors"
STATE_FILE = "state.json"
MAX_MANIFEST_BYTES = 64 * 1024

_SEAL = "manifest_sha256"
_KEYS = frozenset(
    {"created", "esper_version", "files", "format_version", "kind", "topology_hash", "torch_version", _SEAL}
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a checkpoint."""

    num_bytes: int
    sha256: str
    """64 hexadecimal digits, lower case."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of and who wrote it."""

    kind: str
    """What was saved, for example "run"; a store reads its own kind only."""
    esper_version: str
    torch_version: str
    created: str
    """ISO 8601, UTC; for people only, nothing is ordered by it."""
    topology_hash: str
    tensors: FileEntry
    """Of tensors.safetensors."""
    state: FileEntry
    """Of state.json."""


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the text of MANIFEST.json: sorted keys, indented, ASCII, sealed."""
    body: dict[str, JsonValue] = {
        "format_version": FORMAT_VERSION,
        "kind": manifest.kind,
        "esper_version": manifest.esper_version,
        "torch_version": manifest.torch_version,
        "created": manifest.created,
        "topology_hash": manifest.topology_hash,
        "files": {
            name: {"num_bytes": entry.num_bytes, "sha256": entry.sha256}
            for name, entry in ((TENSOR_FILE, manifest.tensors), (STATE_FILE, manifest.state))
        },
    }
    return seal_manifest(body)


def seal_manifest(body: Mapping[str, JsonValue]) -> bytes:
    """Return `body` as text with the seal added."""
    sealed = {**body, _SEAL: canonical_hash(body)}
    return (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode("ascii")


def parse_manifest(data: bytes, *, kind: str) -> Manifest:
    """Return the manifest that `data` says.

    Args:
        data: The content of MANIFEST.json.
        kind: The kind that is expected.

    Raises:
        ValueError: If it is damaged: not JSON, or the seal does not fit.
        ForeignCheckpointError: If it is whole, but of another program, format or kind.
    """
    value = parse_json(data, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(value, Mapping) or not _KEYS & value.keys():
        raise ForeignCheckpointError("was not written by esper-lite: it has none of the expected keys")
    body = {key: item for key, item in value.items() if key != _SEAL}
    if value.get(_SEAL) != canonical_hash(body):
        raise ValueError("its own SHA-256 does not fit its content")
    version = body.get("format_version")
    if version != FORMAT_VERSION:
        raise ForeignCheckpointError(
            f"has format version {version!r}, this program reads {FORMAT_VERSION}; use the version of "
            f"esper-lite that wrote it ({body.get('esper_version')!r})"
        )
    if body.get("kind") != kind:
        raise ForeignCheckpointError(f"is a checkpoint of kind {body.get('kind')!r}, expected {kind!r}")
    manifest = _build_manifest(body)
    if encode_manifest(manifest) != data:
        raise ValueError("is not the text that esper-lite writes for this content")
    return manifest


def _build_manifest(body: Mapping[str, JsonValue]) -> Manifest:
    if body.keys() != _KEYS - {_SEAL}:
        raise ForeignCheckpointError(f"has the keys {sorted(body)}, expected {sorted(_KEYS - {_SEAL})}")
    files = body["files"]
    if not isinstance(files, Mapping) or files.keys() != {TENSOR_FILE, STATE_FILE}:
        raise ForeignCheckpointError(f"must list the files {TENSOR_FILE} and {STATE_FILE}, and no other")
    return Manifest(
        kind=_text(body, "kind"),
        esper_version=_text(body, "esper_version"),
        torch_version=_text(body, "torch_version"),
        created=_text(body, "created"),
        topology_hash=_text(body, "topology_hash"),
        tensors=_build_entry(files, TENSOR_FILE),
        state=_build_entry(files, STATE_FILE),
    )


def _text(body: Mapping[str, JsonValue], key: str) -> str:
    value = body[key]
    if not isinstance(value, str):
        raise ForeignCheckpointError(f"has {key} = {value!r}, expected a string")
    return value


def _build_entry(files: Mapping[str, JsonValue], name: str) -> FileEntry:
    entry = files[name]
    if isinstance(entry, Mapping) and entry.keys() == {"num_bytes", "sha256"}:
        num_bytes, digest = entry["num_bytes"], entry["sha256"]
        is_digest = isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
        if type(num_bytes) is int and num_bytes >= 0 and is_digest:
            return FileEntry(num_bytes=num_bytes, sha256=str(digest))
    raise ForeignCheckpointError(f"has no usable size and SHA-256 for {name}")
