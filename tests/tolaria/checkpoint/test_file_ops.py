from __future__ import annotations

from pathlib import Path

import pytest

from esper.tolaria.checkpoint import FileOps
from tolaria.checkpoint.faults import FailAt


def test_each_operation_announces_itself_before_it_acts(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    ops = FileOps(before=lambda operation, path: seen.append((operation, path.exists())))
    ops.mkdir(tmp_path / "a")
    ops.write_file(tmp_path / "a" / "file", b"one")
    ops.rename(tmp_path / "a", tmp_path / "b")
    ops.replace_file(tmp_path / "b" / "file", b"two")
    assert (tmp_path / "b" / "file").read_bytes() == b"two"
    ops.unlink(tmp_path / "b" / "file")
    ops.rmtree(tmp_path / "b")
    assert seen == [
        ("mkdir", False),
        ("open", False), ("write", True), ("fsync", True),
        ("rename", True),
        ("open", False), ("write", True), ("fsync", True), ("replace", True), ("fsync", True),
        ("unlink", True),
        ("rmtree", True),
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", range(5))
def test_replace_file_leaves_the_old_or_the_new_content_when_it_fails(tmp_path: Path, at: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        FileOps(before=FailAt(at)).replace_file(path, b"new")
    assert path.read_bytes() == (b"old" if at < 4 else b"new")


def test_a_large_write_is_announced_piece_by_piece(tmp_path: Path) -> None:
    hook = FailAt(-1)
    data = bytes(range(256)) * (36 * 1024)
    FileOps(before=hook).write_file(tmp_path / "file", data)
    assert hook.calls == ["open", "write", "write", "write", "fsync"]
    assert (tmp_path / "file").read_bytes() == data


def test_open_refuses_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        FileOps().open(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_file_is_closed_when_a_write_fails(tmp_path: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="No space left"):
        FileOps(before=FailAt(1)).write_file(tmp_path / "file", b"data")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
