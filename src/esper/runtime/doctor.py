"""Is this machine ready? Versions, devices, data sets, disk and write access, as a list of findings.

Looks, reports and leaves nothing behind; uses no network.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch

from esper.data import DatasetStatus, list_datasets
from esper.leyline import DataError, JsonValue
from esper.runtime.devices import available_devices, available_memory
from esper.runtime.run_folder import package_versions

MIN_FREE_BYTES = 2**30
"""Free disk below which a note is given; one run with its checkpoints stays far below."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFinding:
    """One line of `esper doctor`.

    Example:
        HealthFinding(topic="disk", name="runs", state="ok", detail="52.1 GiB free")
    """

    topic: Literal["version", "device", "data", "disk"]
    name: str
    state: Literal["ok", "note", "problem"]
    """"note" is worth knowing and stops nothing; "problem" will make a run fail."""
    detail: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the finding as JSON."""
        return {"topic": self.topic, "name": self.name, "state": self.state, "detail": self.detail}


def collect_findings(run_root: Path, data_dir: Path | None = None) -> tuple[HealthFinding, ...]:
    """Look at everything that a run needs.

    Args:
        run_root: Where runs would be written; it need not exist.
        data_dir: Folder of the data sets; None = the usual places.
    """
    return (*_check_versions(), *_check_devices(), *_check_data(data_dir), *_check_disk(run_root))


def _check_versions() -> tuple[HealthFinding, ...]:
    findings = [
        HealthFinding(
            topic="version", name=name, state="problem" if text == "not installed" else "ok", detail=text
        )
        for name, text in package_versions().items()
    ]
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return (*findings, HealthFinding(topic="version", name="system", state="ok", detail=system))


def _check_devices() -> tuple[HealthFinding, ...]:
    findings = []
    for name in available_devices():
        threads = torch.get_num_threads()
        detail = f"{os.cpu_count()} cores, {threads} torch thread{'' if threads == 1 else 's'}"
        if name.startswith("cuda"):
            detail = torch.cuda.get_device_name(name)
        elif name == "mps":
            detail = "Apple GPU"
        free = available_memory(torch.device(name))
        detail += "" if free is None else f", {free / 2**30:.1f} GiB of memory free"
        findings.append(HealthFinding(topic="device", name=name, state="ok", detail=detail))
    return tuple(findings)


def _check_data(data_dir: Path | None) -> tuple[HealthFinding, ...]:
    try:
        sets = list_datasets(data_dir)
    except DataError as error:
        return (HealthFinding(topic="data", name=str(data_dir), state="problem", detail=str(error)),)
    return tuple(
        HealthFinding(
            topic="data",
            name=item.name,
            state="note" if item.state == "missing" else "ok",
            detail=_describe_set(item),
        )
        for item in sets
    )


def _describe_set(item: DatasetStatus) -> str:
    if item.state == "missing":
        return f"missing; `esper data check {item.name}` says how to get it"
    return item.state if item.path is None else f"{item.state}: {item.path}"


def _check_disk(run_root: Path) -> tuple[HealthFinding, ...]:
    existing = run_root.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    name = str(run_root)
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        detail = f"{existing} cannot be written: {error.strerror}; give a --run-dir that can"
        return (HealthFinding(topic="disk", name=name, state="problem", detail=detail),)
    is_low = free < MIN_FREE_BYTES
    detail = f"writable, {free / 2**30:.1f} GiB free" + (" (little)" if is_low else "")
    return (HealthFinding(topic="disk", name=name, state="note" if is_low else "ok", detail=detail),)
