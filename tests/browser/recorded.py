"""Runs to look at: recorded by the program itself, or made up and written by its own writers."""

from __future__ import annotations

import fcntl
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.leyline import (
    ClassesMeasured,
    DecisionMade,
    Event,
    GradientsMeasured,
    RedFlagRaised,
    RunFinished,
    RunStarted,
    SeedCulled,
    SeedGerminated,
    SharpnessMeasured,
    WeightsMeasured,
)
from esper.nissa import EventHub, RunDirectoryBackend
from esper.runtime.run_folder import RunFolder, RunOrigin
from nissa.sample_run import HOST_PARAMS, SLOTS, decided, finished_epoch, measured, moved, run_events

NUM_ENVS = 64
NUM_EVENTS = 100_000
HOSTILE = (
    "<script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "\u202egnp.exe\u202c",
    "\x1b[31mred\x1b[0m",
    "javascript:window.ran=1//",
    "{{constructor.constructor('window.ran=1')()}}",
)
"""Names that a page or a terminal could take for something else than text."""
FOLDER_NAME = '"><img src=x onerror="window.ran = 1">'
"""One of them that can also name a folder."""


@final
@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run directory that is being written."""

    path: Path
    hub: EventHub


def esper(*arguments: object) -> list[str]:
    """Return the command line of the program under test."""
    return [sys.executable, "-m", "esper", *map(str, arguments)]


@contextmanager
def open_run(path: Path, *, task: str = "digits", policy: str = "heuristic") -> Iterator[OpenRun]:
    """Hold a run directory, every record in its file at once; finished on leaving."""
    origin = RunOrigin(task=task, policy=policy, seed=0)
    with RunFolder.create(path, config_text="", origin=origin) as folder:
        backend = RunDirectoryBackend(path, run_id=folder.run_id, flush_interval_seconds=0.0)
        hub = EventHub([backend], folder.run_id)
        try:
            yield OpenRun(path, hub)
        finally:
            hub.close()


def write_run(
    path: Path, events: Iterable[Event], *, task: str = "digits", policy: str = "heuristic"
) -> Path:
    """Write a whole run."""
    with open_run(path, task=task, policy=policy) as run:
        for event in events:
            run.hub.emit(event)
    return path


def record_training(path: Path) -> Path:
    """Train a policy on 64 small hosts for two short rounds."""
    command = esper("train", "ppo", "--task", "synthetic", "--envs", NUM_ENVS, "--rounds", 2, "--epochs", 5)
    command += ["--envs.num-hosts", "4", "--fleet", "fused"]  # quick: lives are shared, hosts stacked
    return _record(command, path)


def record_host_run(path: Path, *, seed: int = 0, num_epochs: int = 40) -> Path:
    """Grow a host on digits."""
    command = esper("train", "heuristic", "--task", "digits", "--epochs", num_epochs, "--seed", seed)
    return _record(command, path)


def write_sample_run(path: Path) -> Path:
    """Write a made-up run in which one seed is kept, one is culled, one comes too late."""
    return write_run(path, run_events())


def write_diagnosed_run(path: Path) -> Path:
    """Write a made-up run in which classes are measured, one is taken for the other, and a flag is raised."""
    return write_run(path, diagnosed_events())


def write_many_events(path: Path) -> Path:
    """Write a made-up run of 100,000 events."""
    return write_run(path, many_events())


def write_hostile_run(path: Path) -> Path:
    """Write a made-up run whose every name wants to be more than text."""
    return write_run(path, hostile_events(), task=HOSTILE[0], policy=HOSTILE[1])


def diagnosed_events() -> Iterator[Event]:
    """One epoch with everything that diagnostics tell."""
    layers = {f"layer{index:02}": 1.0 + index for index in range(30)}
    yield started(1)
    yield finished_epoch(1)
    yield GradientsMeasured(epoch=1, profile="research", num_batches=4, health=0.8, layers=layers)
    yield WeightsMeasured(epoch=1, norms=layers, drift=layers, since_epoch=dict.fromkeys(layers, 0))
    yield ClassesMeasured(
        epoch=1, num_items=(8, 0), accuracy=(0.75, None), loss=(0.5, None), confusion=((6, 2), (0, 0))
    )
    yield SharpnessMeasured(epoch=1, sharpness=2.0, loss=0.5, sigma=0.01, num_draws=3, num_items=8)
    yield RedFlagRaised(epoch=1, name="sharp_loss", value=2.0, threshold=1.0, advice=HOSTILE[0])
    yield RunFinished(epoch=1, reason="horizon")


def many_events() -> Iterator[Event]:
    """Five events a step until there are 100,000."""
    per_step = 2 + len(SLOTS)
    num_steps = (NUM_EVENTS - 2) // per_step
    yield started(num_steps)
    for step in range(1, num_steps + 1):
        yield decided(step - 1, "WAIT")
        yield finished_epoch(step)
        for place, slot in enumerate(SLOTS):
            yield measured(step, slot, f"{slot}#1", "PROBATIONARY", 0.02 * math.sin(step / 500 + place))
    for _ in range(NUM_EVENTS - 2 - num_steps * per_step):
        yield decided(num_steps, "WAIT")
    yield RunFinished(epoch=num_steps, reason="horizon")


def hostile_events() -> Iterator[Event]:
    """A short run with a hostile name in every place that takes text."""
    slots = HOSTILE
    yield started(len(slots), task=HOSTILE[0], policy=HOSTILE[1], slots=slots)
    for step, (slot, name) in enumerate(zip(slots, reversed(HOSTILE), strict=True), 1):
        seed_id = f"{slot}#1"
        yield DecisionMade(
            epoch=step - 1,
            op="GERMINATE",
            slot=slot,
            blueprint=name,
            reason=name,
            confidence=0.5,
            refusal=name,
        )
        yield moved(step, slot, "DORMANT", "GERMINATED", seed_id, name)
        yield SeedGerminated(
            epoch=step,
            slot=slot,
            seed_id=seed_id,
            blueprint=name,
            blend="add",
            num_params=64,
            flops_per_item=77_000,
        )
        yield moved(step, slot, "GERMINATED", "TRAINING", seed_id, name)
        yield finished_epoch(step)
        yield measured(step, slot, seed_id, "TRAINING", 0.01)
    yield SeedCulled(
        epoch=len(slots),
        slot=slots[0],
        seed_id=f"{slots[0]}#1",
        blueprint=HOSTILE[-1],
        num_params=64,
        age_epochs=5,
        reason=HOSTILE[0],
    )
    yield RunFinished(epoch=len(slots), reason=HOSTILE[1])


def started(
    num_epochs: int, *, task: str = "digits", policy: str = "heuristic", slots: tuple[str, ...] = SLOTS
) -> RunStarted:
    """The first event of a made-up run."""
    return RunStarted(
        epoch=0,
        task=task,
        policy=policy,
        seed=0,
        horizon_epochs=num_epochs,
        host_params=HOST_PARAMS,
        slots=slots,
    )


def made_once(path: Path, make: Callable[[Path], Path]) -> Path:
    """Return what `make` puts at a path; of several processes that ask for it, one makes it.

    Args:
        path: Where it belongs; its folder exists.
        make: Given a path that does not exist.
    """
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path.with_name(f"{path.name}.part")).rename(path)
    return path


def _record(command: list[str], path: Path) -> Path:
    done = subprocess.run([*command, "--run-dir", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path
