from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from esper.runtime import doctor
from esper.runtime.doctor import HealthFinding, collect_findings

if TYPE_CHECKING:
    import pytest


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def _by_name(findings: tuple[HealthFinding, ...]) -> dict[str, HealthFinding]:
    return {f"{item.topic}/{item.name}": item for item in findings}


def test_a_healthy_machine_has_no_problem_and_is_left_as_it_was(tmp_path: Path) -> None:
    findings = _by_name(collect_findings(tmp_path / "deep" / "runs"))
    assert not [item for item in findings.values() if item.state == "problem"]
    assert findings["version/torch"].detail == torch.__version__
    assert findings["data/digits"].state == "ok"
    assert findings["device/cpu"].state == "ok"
    assert "GiB free" in findings[f"disk/{tmp_path / 'deep' / 'runs'}"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_missing_set_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    finding = _by_name(collect_findings(tmp_path))["data/emoji9"]
    detail = "missing; `esper data check emoji9` says how to get it"
    assert (finding.state, finding.detail) == ("note", detail)
    assert finding.to_json() == {"topic": "data", "name": "emoji9", "state": "note", "detail": detail}


def test_a_data_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    findings = _by_name(collect_findings(tmp_path, tmp_path / "no"))
    assert findings[f"data/{tmp_path / 'no'}"].state == "problem"


def test_a_package_that_is_not_installed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "package_versions", lambda: {"numpy": "not installed"})
    assert _by_name(collect_findings(tmp_path))["version/numpy"].state == "problem"


def test_a_folder_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    finding = _by_name(collect_findings(tmp_path))[f"disk/{tmp_path}"]
    assert finding.state == "problem"
    assert "Read-only file system" in finding.detail


def test_little_free_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(2**40, 2**40 - 2**20, 2**20))
    finding = _by_name(collect_findings(tmp_path))[f"disk/{tmp_path}"]
    assert (finding.state, finding.detail) == ("note", "writable, 0.0 GiB free (little)")


def test_free_memory_is_part_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda device: 3 * 2**29)
    detail = _by_name(collect_findings(tmp_path))["device/cpu"].detail
    assert detail.endswith(", 1.5 GiB of memory free")


def test_accelerators_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_devices", lambda: ("cpu", "cuda:0", "mps"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"card {name}")
    monkeypatch.setattr(doctor, "available_memory", lambda device: None)
    findings = _by_name(collect_findings(tmp_path))
    assert findings["device/cuda:0"].detail == "card cuda:0"
    assert findings["device/mps"].detail == "Apple GPU"
