"""A made-up training of a policy as a run directory, for tests of what reads one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from esper.leyline import Event
from esper.nissa import EventHub, RunDirectoryBackend
from esper.runtime.run_folder import RunFolder, RunOrigin


def write_training(
    path: Path,
    events: Iterable[Event],
    *,
    policy: str = "ppo",
    seed: int = 7,
    state: str = "",
    config_text: str = "",
) -> Path:
    """Write a run directory; `state` makes it one that was stopped."""
    origin = RunOrigin(task="digits", policy=policy, seed=seed)
    with RunFolder.create(path, config_text=config_text, origin=origin) as folder:
        hub = EventHub([RunDirectoryBackend(path, run_id=folder.run_id)], folder.run_id)
        for event in events:
            hub.emit(event)
        hub.close()
    if state:
        status = json.loads((path / "status.json").read_text(encoding="utf-8"))
        (path / "status.json").write_text(json.dumps(status | {"state": state, "exit_code": 130}), "utf-8")
    return path
