"""Programs for tests: runs that save on disks which hang or are too small for a while."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from esper.leyline import Event
from esper.runtime.experiment import ExperimentConfig
from esper.runtime.run import run_experiment
from esper.runtime.run_attempt import LateSink
from esper.tolaria.checkpoint import FileOps
from runtime.test_run import tiny


def start(function: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that calls a function of this module with these arguments."""
    tests = Path(__file__).parents[1]
    # A suite started in the background inherits ignored signals, and an ignored one stays ignored.
    text = "import signal as s, sys; s.signal(s.SIGINT, s.default_int_handler); "
    text += f"sys.path.insert(0, {str(tests)!r}); from faults import saving_runs; "
    text += f"saving_runs.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def often_saved() -> ExperimentConfig:
    """A run of eight epochs that saves every second one and keeps all."""
    return replace(tiny(), checkpoint=replace(tiny().checkpoint, every_epochs=2, keep=20))


def hang_from_second_save_on(run_dir: str) -> None:
    """Run on a disk that takes one checkpoint and then hangs; say so once it does."""
    original = FileOps.mkdir

    def mkdir(self: FileOps, path: Path) -> None:
        if path.name.startswith(".tmp-") and "-e0002-" not in path.name:
            sys.stdout.write("hangs\n")
            sys.stdout.flush()
            threading.Event().wait()
        original(self, path)

    FileOps.mkdir = mkdir  # type: ignore[method-assign]
    run_experiment(often_saved(), run_dir=Path(run_dir), provenance={})


def run_with_small_files_at_first(run_dir: str, max_bytes: str) -> None:
    """Run while no file may grow beyond `max_bytes`, until epoch 5 is over."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    emit_original = LateSink.emit

    def emit(self: LateSink, event: Event) -> None:
        emit_original(self, event)
        if event.kind == "EpochCompleted" and event.epoch == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    LateSink.emit = emit  # type: ignore[method-assign]
    config = often_saved()
    config = replace(config, checkpoint=replace(config.checkpoint, is_asynchronous=False))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), hard))
    run_experiment(config, run_dir=Path(run_dir), provenance={})
