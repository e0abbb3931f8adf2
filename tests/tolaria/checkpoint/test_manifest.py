from __future__ import annotations

import json
import random

import pytest

from esper.leyline import ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint.manifest import encode_manifest, parse_manifest, seal_manifest
from tolaria.checkpoint.hostile import build_body

BODY = build_body(b"tensors", b"state")
DATA = seal_manifest(BODY)


def test_what_is_encoded_parses_to_the_same_manifest() -> None:
    manifest = parse_manifest(DATA, kind="run")
    assert encode_manifest(manifest) == DATA
    assert manifest.tensors.num_bytes == len(b"tensors")
    assert manifest.topology_hash == BODY["topology_hash"]
    assert DATA.isascii()


def test_every_flipped_bit_is_damage() -> None:
    for bit in random.Random(0).sample(range(8 * len(DATA)), 1000):
        flipped = bytearray(DATA)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"."):
            parse_manifest(bytes(flipped), kind="run")


def test_every_truncation_is_damage() -> None:
    for length in range(len(DATA)):
        with pytest.raises(ValueError, match=r"."):
            parse_manifest(DATA[:length], kind="run")


def test_other_white_space_is_damage() -> None:
    with pytest.raises(ValueError, match="not the text that esper-lite writes"):
        parse_manifest(json.dumps(json.loads(DATA)).encode(), kind="run")


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"torch": 1}', b"3"])
def test_json_of_another_program_is_foreign(data: bytes) -> None:
    with pytest.raises(ForeignCheckpointError, match="was not written by esper-lite"):
        parse_manifest(data, kind="run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, r"has format version 2, this program reads 1; use the version .*'0\.1\.0'"),
        ({"format_version": "one"}, "has format version 'one'"),
        ({"kind": "ppo"}, "is a checkpoint of kind 'ppo', expected 'run'"),
        ({"topology_hash": 7}, "has topology_hash = 7, expected a string"),
        ({"more": 1}, "has the keys"),
        ({"files": {}}, "must list the files"),
        ({"files": []}, "must list the files"),
        (
            {"files": {"tensors.safetensors": {"num_bytes": 1}, "state.json": {}}},
            "no usable size and SHA-256",
        ),
        (
            {"files": {"tensors.safetensors": {"num_bytes": -1, "sha256": "0" * 64}, "state.json": 1}},
            "no usable size and SHA-256",
        ),
        (
            {"files": {"tensors.safetensors": {"num_bytes": True, "sha256": "0" * 64}, "state.json": 1}},
            "no usable size and SHA-256",
        ),
    ],
)
def test_a_whole_manifest_that_is_not_ours_is_foreign(changes: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(ForeignCheckpointError, match=message):
        parse_manifest(seal_manifest(BODY | changes), kind="run")


def test_a_manifest_with_an_unfit_seal_is_damage_before_its_version_counts() -> None:
    text = DATA.replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(ValueError, match="its own SHA-256 does not fit"):
        parse_manifest(text, kind="run")
