from __future__ import annotations

import pickle  # noqa: TID251 - builds what must never be read
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import (
    CheckpointError,
    ConfigError,
    ExitCode,
    ForeignCheckpointError,
    JsonValue,
    UnknownNameError,
)
from esper.tolaria.checkpoint import CheckpointStore, StateRecord, checkpoint_name, checkpoint_place
from tolaria.checkpoint.faults import (
    TOPOLOGY,
    FailAt,
    assert_is_record,
    build_record,
    build_store,
    save_epochs,
)
from tolaria.checkpoint.hostile import build_tensor_bytes, write_sealed

E1, E2, E3 = (checkpoint_name(epoch, 0) for epoch in (1, 2, 3))
STATES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def damage(path: Path) -> None:
    """Flip one bit in the last byte of the tensors."""
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)


def listing(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def test_the_newest_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    store = build_store(tmp_path / "checkpoints")
    for epoch in (1, 2):
        saved = store.save(checkpoint_name(epoch, 0), build_record(epoch), topology_hash=TOPOLOGY)
    assert saved.path == tmp_path / "checkpoints" / E2
    assert saved.num_bytes == sum(file.stat().st_size for file in saved.path.iterdir())
    loaded = store.load()
    assert_is_record(loaded.record, 2)
    assert (loaded.name, loaded.topology_hash, loaded.rejected) == (E2, TOPOLOGY, ())
    assert loaded.manifest.esper_version == "0.1.0"
    assert (tmp_path / "checkpoints" / "LATEST").read_text(encoding="ascii") == f"{E2}\n"
    assert store.housekeeping_errors == ()


@given(st.dictionaries(st.text(), STATES, max_size=4), st.lists(st.floats(width=32), max_size=5))
def test_any_record_round_trips(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, JsonValue], values: list[float]
) -> None:
    store = build_store(tmp_path_factory.mktemp("any"))
    tensor = torch.tensor(values, dtype=torch.float32)
    store.save(E1, StateRecord(tensors={"x": tensor}, state=state), topology_hash=TOPOLOGY)
    loaded = store.load().record
    assert repr(loaded.state) == repr(state)
    assert torch.equal(loaded.tensors["x"].view(torch.int32), tensor.view(torch.int32))


def test_an_empty_record_round_trips(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    store.save(E1, StateRecord(tensors={}, state={}), topology_hash=TOPOLOGY)
    loaded = store.load().record
    assert (dict(loaded.tensors), loaded.state) == ({}, {})


def test_names_are_ordered_by_epoch_and_batch_not_by_text() -> None:
    assert checkpoint_name(12, 34) == "e0012-b00034"
    assert checkpoint_name(12345, 678901) == "e12345-b678901"
    for numbers in ((-1, 0), (0, -1), (10**9, 0), (0, 10**9), (0, 0, -1), (0, 0, 10**9)):
        with pytest.raises(ValueError, match=r"must be in"):
            checkpoint_name(*numbers)


def test_the_place_in_a_name_is_larger_for_what_is_newer() -> None:
    numbers = [(0, 0, 0), (0, 7, 0), (12, 34, 0), (9_999, 0, 0), (12_345, 678_901, 0), (1, 2, 1), (0, 0, 2)]
    places = [checkpoint_place(checkpoint_name(*each)) for each in numbers]
    assert places == sorted((rollbacks, epoch, batch) for epoch, batch, rollbacks in numbers)
    assert [checkpoint_place(name) for name in ("LATEST", "e00012-b00001", ".tmp-e0001-b00000")] == [None] * 3


def test_other_entries_are_not_checkpoints(tmp_path: Path) -> None:
    for name in ("e9999-b00000", "e10000-b00000", "e0001-b00002", "e0001-b00010", "e00012-b00001", "e12-b1"):
        (tmp_path / name).mkdir()
    assert build_store(tmp_path).names() == ("e10000-b00000", "e9999-b00000", "e0001-b00010", "e0001-b00002")


@pytest.mark.parametrize(
    "name", ["", "e1-b1", "e00001-b00001", "../e0001-b00001", "e0001-b00001\n", "bad-e0001-b00001"]
)
def test_a_malformed_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="expected a name like 'e0012-b00034'"):
        build_store(tmp_path).save(name, build_record(1), topology_hash=TOPOLOGY)
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (StateRecord(tensors={}, state={"a": [float("nan")]}), r"record\.state\.a\[0\] is nan"),
        (StateRecord(tensors={"a b": torch.zeros(1)}, state={}), "tensor name 'a b'"),
        (StateRecord(tensors={"a": torch.zeros(2).to_sparse()}, state={}), "cannot be saved"),
    ],
)
def test_a_record_that_cannot_be_written_is_refused_before_the_disk_is_touched(
    tmp_path: Path, record: StateRecord, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_store(tmp_path / "new").save(E1, record, topology_hash=TOPOLOGY)
    assert listing(tmp_path) == []


def test_a_malformed_topology_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="topology_hash=''"):
        build_store(tmp_path).save(E1, build_record(1), topology_hash="")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "a/b"}, "kind='a/b': must match"),
        ({"esper_version": "unknown"}, "esper_version='unknown'"),
        ({"esper_version": ""}, "esper_version=''"),
        ({"keep": 1}, "keep=1: must be >= 2"),
        ({"max_tensor_bytes": 0}, "max_tensor_bytes=0: must be >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"kind": "run", "esper_version": "0.1.0"} | changes
    with pytest.raises(ConfigError, match=message):
        CheckpointStore(tmp_path, **settings)  # type: ignore[arg-type]


def test_more_tensor_data_than_could_be_loaded_is_not_saved(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, kind="run", esper_version="0.1.0", max_tensor_bytes=15)
    store.save(E1, StateRecord(tensors={"a": torch.zeros(3)}, state={}), topology_hash=TOPOLOGY)
    with pytest.raises(CheckpointError, match="16 bytes of tensors, max_tensor_bytes is 15"):
        store.save(E2, StateRecord(tensors={"a": torch.zeros(4)}, state={}), topology_hash=TOPOLOGY)
    assert store.load().name == E1


def test_a_damaged_checkpoint_is_passed_over_and_reported(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2, 3)
    damage(tmp_path / E3)
    (tmp_path / E2 / "state.json").unlink()
    loaded = store.load()
    assert_is_record(loaded.record, 1)
    assert [(item.name, item.file) for item in loaded.rejected] == [
        (E3, "tensors.safetensors"),
        (E2, "state.json"),
    ]
    assert "SHA-256" in loaded.rejected[0].reason


def test_latest_is_only_a_hint(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2)
    for text in (E1, "e9999-b00000", "../elsewhere"):
        (tmp_path / "LATEST").write_text(text, encoding="ascii")
        assert store.load().name == E2


def test_no_valid_checkpoint_left_names_each_file(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2)
    damage(tmp_path / E1)
    (tmp_path / E2 / "MANIFEST.json").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        store.load()
    assert caught.value.exit_code is ExitCode.DATA
    assert f"{E2}/MANIFEST.json: " in str(caught.value)
    assert f"{E1}/tensors.safetensors: has SHA-256" in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_no_checkpoint_at_all_is_said(tmp_path: Path, exists: bool) -> None:
    root = tmp_path if exists else tmp_path / "missing"
    store = build_store(root)
    assert store.names() == ()
    assert store.clean() == 0
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .*expected directories with names like"
    ) as caught:
        store.load()
    assert caught.value.exit_code is ExitCode.DATA


def test_a_named_checkpoint_is_loaded_without_fallback(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2)
    assert store.load(E1).name == E1
    damage(tmp_path / E2)
    with pytest.raises(CheckpointError, match=rf"{E2}/tensors\.safetensors"):
        store.load(E2)
    with pytest.raises(UnknownNameError, match=f"did you mean '{E2}'"):
        store.load("e0002-b00009")
    with pytest.raises(UnknownNameError, match=r"unknown checkpoint '\.\./x'"):
        store.load("../x")


@pytest.mark.battery("T11", "T14")
def test_a_newer_format_is_refused_and_an_older_one_taken_only_when_named(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1)
    write_sealed(tmp_path / E2, build_tensor_bytes(b"{}"), format_version=2)
    with pytest.raises(
        ForeignCheckpointError, match=f"format version 2.*older checkpoint {E1}, move {E2} elsewhere"
    ) as caught:
        store.load()
    assert caught.value.exit_code is ExitCode.USAGE
    assert store.load(E1).name == E1
    (tmp_path / E2).rename(tmp_path / "elsewhere")
    assert store.load().name == E1


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_epochs(tmp_path, 1)
    with pytest.raises(ForeignCheckpointError, match="kind 'run', expected 'policy'"):
        CheckpointStore(tmp_path, kind="policy", esper_version="0.1.0").load()


def test_a_pickle_in_the_place_of_a_checkpoint_is_foreign(tmp_path: Path) -> None:
    data = pickle.dumps({"a": [1, 2, 3]})
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "model.pt", tmp_path / "folder" / E1, tmp_path / "folder" / ".metadata"):
        path.write_bytes(data)
    for root in (tmp_path / "model.pt", tmp_path / "folder", tmp_path):
        with pytest.raises(ForeignCheckpointError, match="looks like a pickle") as caught:
            build_store(root).load()
        assert caught.value.exit_code is ExitCode.USAGE


def test_an_existing_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    save_epochs(tmp_path, 1)
    write_sealed(tmp_path / E2, build_tensor_bytes(b"{}"), kind="other")
    before = listing(tmp_path)
    for name in (E1, E2):
        with pytest.raises(CheckpointError, match="the name is taken"):
            build_store(tmp_path).save(name, build_record(7), topology_hash=TOPOLOGY)
    assert listing(tmp_path) == before
    assert_is_record(build_store(tmp_path).load(E1).record, 1)


def test_a_damaged_checkpoint_of_the_same_name_is_set_aside(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1, 2)
    for epoch in (10, 20):
        damage(tmp_path / E2)
        store.save(E2, build_record(epoch), topology_hash=TOPOLOGY)
        assert_is_record(store.load().record, epoch)
    assert listing(tmp_path) == ["LATEST", f"bad-{E2}-0", f"bad-{E2}-1", E1, E2]


def test_an_empty_directory_of_the_same_name_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / E1).mkdir()
    build_store(tmp_path).save(E1, build_record(1), topology_hash=TOPOLOGY)
    assert listing(tmp_path) == ["LATEST", f"bad-{E1}-0", E1]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    store = build_store(tmp_path, keep=3)
    for epoch in range(6):
        store.save(checkpoint_name(epoch, 0), build_record(epoch), topology_hash=TOPOLOGY)
    assert listing(tmp_path) == ["LATEST", "e0003-b00000", "e0004-b00000", "e0005-b00000"]


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    save_epochs(tmp_path, 1, 2, 3, 4, 5)
    for epoch in (3, 4, 5):
        damage(tmp_path / checkpoint_name(epoch, 0))
    store = build_store(tmp_path)
    store.save(checkpoint_name(2, 7), build_record(27), topology_hash=TOPOLOGY)
    assert store.names() == ("e0005-b00000", "e0004-b00000", "e0003-b00000", "e0002-b00007", E2)
    assert store.load().name == "e0002-b00007"


def test_a_foreign_checkpoint_is_never_purged(tmp_path: Path) -> None:
    write_sealed(tmp_path / "e0000-b00000", build_tensor_bytes(b"{}"), kind="other")
    save_epochs(tmp_path, 1, 2)
    build_store(tmp_path).save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert build_store(tmp_path).names() == (E3, E2, "e0000-b00000")


def test_the_checkpoint_just_saved_is_kept_even_when_it_is_the_oldest(tmp_path: Path) -> None:
    save_epochs(tmp_path, 2, 3)
    store = build_store(tmp_path)
    store.save(E1, build_record(1), topology_hash=TOPOLOGY)
    assert store.names() == (E3, E2, E1)


@pytest.mark.parametrize("operation", ["rename", "rmtree"])
def test_a_failing_purge_is_recorded_and_tried_again(tmp_path: Path, operation: str) -> None:
    save_epochs(tmp_path, 1, 2)
    broken = [True]

    def refuse(called: str, path: Path) -> None:
        if broken[0] and called == operation and (E1 in path.name):
            raise OSError(5, "Input/output error")

    store = build_store(tmp_path, before=refuse)
    store.save(E3, build_record(3), topology_hash=TOPOLOGY)
    assert len(store.housekeeping_errors) == 1
    assert "Input/output error" in store.housekeeping_errors[0]
    assert any(E1 in name for name in listing(tmp_path))
    broken[0] = False
    store.save(checkpoint_name(4, 0), build_record(4), topology_hash=TOPOLOGY)
    assert listing(tmp_path) == ["LATEST", E3, "e0004-b00000"]
    assert len(store.housekeeping_errors) == 1


def test_clean_removes_what_was_left_and_nothing_else(tmp_path: Path) -> None:
    store = save_epochs(tmp_path, 1)
    (tmp_path / ".tmp-e0002-b00000-abc" / "deep").mkdir(parents=True)
    (tmp_path / ".trash-e0000-b00000-abc").mkdir()
    (tmp_path / ".tmp-LATEST-abc").write_bytes(b"")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / E1)
    (tmp_path / "bad-e0002-b00000-0").mkdir()
    assert store.clean() == 4
    assert listing(tmp_path) == ["LATEST", "bad-e0002-b00000-0", E1]
    assert_is_record(store.load().record, 1)


def test_a_failing_clean_is_recorded(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").mkdir()
    store = build_store(tmp_path, before=FailAt(0))
    assert store.clean() == 0
    assert "No space left" in store.housekeeping_errors[0]
    assert store.clean() == 1


def test_a_root_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    store = build_store(tmp_path / "missing" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"cannot save checkpoint .*No such file"):
        store.save(E1, build_record(1), topology_hash=TOPOLOGY)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    store = build_store(tmp_path / "file")
    assert store.root == tmp_path / "file"
    with pytest.raises(ForeignCheckpointError, match=r"is a file; expected a directory of checkpoints$"):
        store.load()
    with pytest.raises(CheckpointError, match="cannot save checkpoint"):
        store.save(E1, build_record(1), topology_hash=TOPOLOGY)


def test_after_a_rollback_the_same_place_has_a_name_of_its_own_and_counts_as_newer(tmp_path: Path) -> None:
    store = build_store(tmp_path / "checkpoints")
    later, again = checkpoint_name(6, 0), checkpoint_name(3, 0, num_rollbacks=1)
    for name, epoch in ((E3, 3), (later, 6), (again, 9)):
        store.save(name, build_record(epoch), topology_hash=TOPOLOGY)
    assert again == "e0003-b00000-r1"
    assert store.names()[:2] == (again, later)
    assert_is_record(store.load().record, 9)
