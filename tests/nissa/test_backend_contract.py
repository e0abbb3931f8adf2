"""What every backend keeps: covers nissa/backends/base.py, nissa/backends/memory.py and all others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.leyline import EpochCompleted, RunFinished
from esper.nissa import (
    AlertBackend,
    AlertCommand,
    BufferedBackend,
    JsonConsole,
    JsonlBackend,
    MemoryBackend,
    OutputBackend,
    PlainConsole,
    RichConsole,
    RunDirectoryBackend,
    TensorBoardBackend,
)
from nissa.sample_run import EPOCHS, numbered, run_events

BACKENDS: dict[str, Callable[[Path], OutputBackend]] = {
    "memory": lambda folder: MemoryBackend(),
    "jsonl": lambda folder: JsonlBackend(folder / "events-0.jsonl", run_id="sample"),
    "run_directory": lambda folder: RunDirectoryBackend(folder, run_id="sample"),
    "plain": lambda folder: PlainConsole(io.StringIO()),
    "json": lambda folder: JsonConsole(io.StringIO()),
    "rich": lambda folder: RichConsole(io.StringIO()),
    "alerts": lambda folder: AlertBackend(AlertCommand(["true"], timeout_seconds=30.0), run_dir=folder),
    "tensorboard": TensorBoardBackend,
    "buffered": lambda folder: BufferedBackend(MemoryBackend()),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_takes_a_whole_run_and_closes_twice(name: str, tmp_path: Path) -> None:
    backend = BACKENDS[name](tmp_path)
    assert isinstance(backend, OutputBackend)
    assert backend.name.isidentifier()
    for record in numbered(run_events()):
        backend.write(record)
    backend.flush()
    backend.flush(durable=True)
    backend.close()
    backend.close()


def test_memory_sorts_events_by_type() -> None:
    backend = MemoryBackend("mine")
    for record in numbered(run_events()):
        backend.write(record)
    assert backend.name == "mine"
    assert len(backend.events_of(EpochCompleted)) == EPOCHS
    assert backend.events_of(RunFinished) == backend.events[-1:]
