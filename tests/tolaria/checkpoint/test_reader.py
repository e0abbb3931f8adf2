from __future__ import annotations

import os
import pickle  # noqa: TID251 - builds what must never be read
import random
from pathlib import Path

import pytest
import torch

from battery_rows import BatteryRecord
from esper.leyline import CheckpointError, ExitCode, ForeignCheckpointError, JsonValue
from esper.tolaria.checkpoint.reader import (
    DamagedCheckpointError,
    is_pickle,
    read_checkpoint,
    verify_checkpoint,
)
from tolaria.checkpoint.faults import assert_is_record, save_epochs
from tolaria.checkpoint.hostile import EMPTY_STATE, build_entry, build_tensor_bytes, write_sealed

FILES = ("MANIFEST.json", "state.json", "tensors.safetensors")
CAP = 2**20
EMPTY_TENSORS = build_tensor_bytes(b"{}      ")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def read(path: Path) -> None:
    read_checkpoint(path, kind="run", max_tensor_bytes=CAP)


def verify(path: Path) -> None:
    verify_checkpoint(path, kind="run", max_tensor_bytes=CAP)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A valid checkpoint directory of epoch 3."""
    save_epochs(tmp_path, 3)
    return tmp_path / "e0003-b00000"


def test_a_valid_checkpoint_is_read_whole(saved: Path) -> None:
    loaded = read_checkpoint(saved, kind="run", max_tensor_bytes=CAP)
    assert_is_record(loaded.record, 3)
    assert loaded.record.tensors["model.tied"] is loaded.record.tensors["model.weight"]
    assert (loaded.name, loaded.topology_hash, loaded.rejected) == ("e0003-b00000", "0" * 64, ())
    assert loaded.manifest == verify_checkpoint(saved, kind="run", max_tensor_bytes=CAP)
    assert loaded.manifest.torch_version == torch.__version__


@pytest.mark.battery("T06")
@pytest.mark.fault
@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_damage_that_names_the_file(
    saved: Path, name: str, battery: BatteryRecord
) -> None:
    whole = (saved / name).read_bytes()
    picked = random.Random(1).sample(range(len(whole)), min(40, len(whole)))
    for length in {0, 1, 8, *picked, len(whole) - 1} - {len(whole)}:
        (saved / name).write_bytes(whole[:length])
        for check in (read, verify):
            with pytest.raises(DamagedCheckpointError, match=name) as caught:
                check(saved)
            assert caught.value.file == name
            assert caught.value.exit_code is ExitCode.DATA
        battery.record()


@pytest.mark.battery("T07")
@pytest.mark.fault
def test_200_flipped_bits_are_all_found(saved: Path, battery: BatteryRecord) -> None:
    contents = {name: (saved / name).read_bytes() for name in FILES}
    places = [(name, bit) for name, data in contents.items() for bit in range(8 * len(data))]
    for name, bit in random.Random(2).sample(places, 200):
        flipped = bytearray(contents[name])
        flipped[bit // 8] ^= 1 << bit % 8
        (saved / name).write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError, match=name):
            read(saved)
        (saved / name).write_bytes(contents[name])
        battery.record()
    read(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_damage(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=f"{name}: is missing"):
        read(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_not_followed(saved: Path, name: str) -> None:
    (saved / name).rename(saved / "elsewhere")
    (saved / name).symlink_to(saved / "elsewhere")
    with pytest.raises(DamagedCheckpointError, match=f"{name}: cannot be read"):
        read(saved)
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(DamagedCheckpointError, match=f"{name}: is not a regular file"):
        read(saved)


def test_a_longer_file_and_a_huge_manifest_are_refused_by_size(saved: Path) -> None:
    with (saved / "state.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(DamagedCheckpointError, match="the manifest says"):
        read(saved)
    os.truncate(saved / "MANIFEST.json", 2**40)
    with pytest.raises(DamagedCheckpointError, match="1099511627776 bytes, at most 65536"):
        read(saved)


@pytest.mark.battery("T08")
@pytest.mark.fault
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", [*FILES, ".metadata", "model.pt"])
def test_a_malicious_pickle_in_any_place_is_refused_and_never_run(
    saved: Path, tmp_path: Path, name: str, protocol: int
) -> None:
    canary = tmp_path / "canary"
    (saved / name).write_bytes(pickle.dumps(Bomb(canary), protocol=protocol))
    for check in (read, verify):
        with pytest.raises(ForeignCheckpointError, match=rf"{name}.*looks like a pickle") as caught:
            check(saved)
        assert caught.value.exit_code is ExitCode.USAGE
        assert "Traceback" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.battery("T08")
@pytest.mark.fault
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_under_a_fitting_manifest_is_refused_and_never_run(
    tmp_path: Path, protocol: int
) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary), protocol=protocol)
    write_sealed(tmp_path / "a", bomb)
    write_sealed(tmp_path / "b", EMPTY_TENSORS, bomb)
    for name in "ab":
        with pytest.raises(ForeignCheckpointError):
            read(tmp_path / name)
    assert not canary.exists()


def test_a_checkpoint_made_by_torch_is_recognised(saved: Path) -> None:
    torch.save({"a": torch.zeros(3)}, saved / "model.pt")
    assert is_pickle(saved / "model.pt")
    with pytest.raises(ForeignCheckpointError, match=r"model\.pt is no part of a checkpoint"):
        read(saved)


def test_a_harmless_file_beside_ours_is_not_read(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    (saved / "folder").mkdir()
    read(saved)


def test_only_pickles_look_like_pickles(tmp_path: Path, saved: Path) -> None:
    for name in FILES:
        assert not is_pickle(saved / name)
    for content in (b"", b"\x80", b"\x80\x04", b"\x80\x02\0\0\0\0\0\0", b"text that is long enough"):
        (tmp_path / "file").write_bytes(content)
        assert not is_pickle(tmp_path / "file")
    assert not is_pickle(tmp_path)
    assert not is_pickle(tmp_path / "missing")


def test_what_the_system_refuses_to_look_at_is_damage(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(DamagedCheckpointError, match="cannot be listed: File name too long"):
        read(path)
    assert not is_pickle(path)


def test_what_is_no_directory_is_foreign(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(saved)
    for name in ("file", "link"):
        with pytest.raises(ForeignCheckpointError, match="is not a directory"):
            read(tmp_path / name)
    with pytest.raises(CheckpointError):
        read(tmp_path / "missing")


def test_a_header_length_of_a_pickle_prefix_is_still_ours(tmp_path: Path) -> None:
    # 0x0280 = 640: the file begins with the bytes of a protocol-2 pickle.
    tensors = build_tensor_bytes(b"{}".ljust(640))
    assert tensors[:2] == b"\x80\x02"
    path = write_sealed(tmp_path / "a", tensors)
    read(path)
    for length in range(len(tensors)):
        (path / "tensors.safetensors").write_bytes(tensors[:length])
        with pytest.raises(DamagedCheckpointError):
            read(path)
    for bit in range(8 * 10):
        flipped = bytearray(tensors)
        flipped[bit // 8] ^= 1 << bit % 8
        (path / "tensors.safetensors").write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError):
            read(path)


@pytest.mark.parametrize(
    ("tensors", "state", "changes", "message"),
    [
        (EMPTY_TENSORS, EMPTY_STATE, {"format_version": 2}, r"MANIFEST\.json has format version 2"),
        (EMPTY_TENSORS, EMPTY_STATE, {"kind": "ppo"}, "kind 'ppo', expected 'run'"),
        (EMPTY_TENSORS, b"[]", {}, r"state\.json .*keys 'aliases' and 'state'"),
        (EMPTY_TENSORS, b'{"aliases":{},"state":{},"x":1}', {}, "keys 'aliases' and 'state'"),
        (EMPTY_TENSORS, b'{"aliases":[],"state":{}}', {}, "must be objects"),
        (EMPTY_TENSORS, b'{"aliases":{},"state":[]}', {}, "must be objects"),
        (EMPTY_TENSORS, b'{"aliases":{"a":1},"state":{}}', {}, "map tensor names to tensor names"),
        (EMPTY_TENSORS, b'{"aliases":{},"state":{"a":1,"a":2}}', {}, "duplicate key 'a'"),
        (EMPTY_TENSORS, b'{"aliases":{},"state":{"a":NaN}}', {}, "non-finite number NaN"),
        (EMPTY_TENSORS, b'{"aliases":{},"state":' + b"[" * 9999, {}, "nested deeper"),
        (EMPTY_TENSORS, b'{"aliases":{"b":"a"},"state":{}}', {}, "'b' cannot stand for 'a'"),
        (build_tensor_bytes(b"{}", length=2**63), EMPTY_STATE, {}, r"tensors\.safetensors .*header of"),
        (build_tensor_bytes({"a": build_entry(0, 4, [2])}, b"1234"), EMPTY_STATE, {}, "needs 8 bytes"),
    ],
)
def test_a_whole_checkpoint_that_is_not_ours_is_foreign(
    tmp_path: Path, tensors: bytes, state: bytes, changes: dict[str, JsonValue], message: str
) -> None:
    path = write_sealed(tmp_path / "a", tensors, state, **changes)
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read(path)
    assert caught.value.exit_code is ExitCode.USAGE


def test_sizes_above_the_limits_are_refused_before_reading(tmp_path: Path) -> None:
    files: dict[str, JsonValue] = {
        "tensors.safetensors": {"num_bytes": 2**40, "sha256": "0" * 64},
        "state.json": {"num_bytes": 10, "sha256": "0" * 64},
    }
    path = write_sealed(tmp_path / "a", EMPTY_TENSORS, files=files)
    os.truncate(path / "tensors.safetensors", 2**40)
    for check in (read, verify):
        with pytest.raises(ForeignCheckpointError, match="1099511627776 bytes, at most 17825800"):
            check(path)
