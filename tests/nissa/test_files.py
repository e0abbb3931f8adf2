"""A file written atomically is the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.nissa.files import write_atomically


def test_the_file_is_replaced_and_no_draft_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (b"old", b"new"):
        write_atomically(path, text)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def refuse(self: Path, target: Path) -> Path:
        del self, target
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
