"""Records to save, a hook that fails at the k-th file operation, and a program that saves until it dies."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from esper.leyline import CheckpointError
from esper.tolaria.checkpoint import (
    BackgroundWriter,
    CheckpointStore,
    FileOps,
    SaveRequest,
    StateRecord,
    checkpoint_name,
)

TOPOLOGY = "0" * 64


def build_record(epoch: int) -> StateRecord:
    """Return a small record whose every part depends on `epoch`."""
    weight = torch.full((6, 5), float(epoch))
    tensors = {
        "model.weight": weight,
        "model.tied": weight,
        "model.steps": torch.tensor(epoch),
        "optimizer.weight/exp_avg": torch.arange(30, dtype=torch.float64).reshape(5, 6).t() + epoch,
    }
    return StateRecord(tensors=tensors, state={"epoch": epoch, "slots": {"block1": {"alpha": 0.37}}})


def build_store(
    root: Path, *, before: Callable[[str, Path], None] | None = None, keep: int = 2
) -> CheckpointStore:
    """Return a store of kind "run"; `before` is the hook of its file operations."""
    file_ops = FileOps(before=before) if before is not None else None
    return CheckpointStore(root, kind="run", esper_version="0.1.0", keep=keep, file_ops=file_ops)


def save_epochs(root: Path, *epochs: int) -> CheckpointStore:
    """Save these epochs without faults, keeping all; return the store."""
    store = build_store(root, keep=max(2, len(epochs)))
    for epoch in epochs:
        store.save(checkpoint_name(epoch, 0), build_record(epoch), topology_hash=TOPOLOGY)
    return store


def assert_is_record(record: StateRecord, epoch: int) -> None:
    """Check that a record is exactly `build_record(epoch)`."""
    expected = build_record(epoch)
    assert record.state == expected.state
    assert record.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert record.tensors[name].dtype == tensor.dtype
        assert torch.equal(record.tensors[name], tensor)


def fail_with_full_disk() -> None:
    """Raise what a full disk raises."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    """End the process here and now: no clean-up, no flush."""
    os._exit(9)


@dataclass
class FailAt:
    """A hook that calls `fault` at call number `at` (from 0) and lets the others through.

    With `is_lasting` all later calls fail as well.
    """

    at: int
    fault: Callable[[], None] = fail_with_full_disk
    is_lasting: bool = False
    calls: list[str] = field(default_factory=list)

    def __call__(self, operation: str, path: Path) -> None:
        index = len(self.calls)
        self.calls.append(operation)
        if index == self.at or (self.is_lasting and index > self.at):
            self.fault()


def run_program(function: str, *arguments: object, module: str = "faults") -> subprocess.Popen[str]:
    """Start a Python process that calls a function of a module beside this one with these arguments."""
    tests = Path(__file__).parents[2]
    text = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent / 'scripts')]!r}; "
    text += f"from tolaria.checkpoint.{module} import {function}; {function}(*sys.argv[1:])"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def save_and_die(root: str, epoch: str, at: str) -> None:
    """Save one epoch and die at the given file operation; exit 0 when there are fewer operations."""
    store = build_store(Path(root), before=FailAt(int(at), fault=die))
    store.save(checkpoint_name(int(epoch), 0), build_record(int(epoch)), topology_hash=TOPOLOGY)


def save_in_children(root: str, function: str) -> None:
    """For each line of standard input start a process that saves until it is killed, by a function of these.

    It says its number first, then each epoch that is durable; its end is told as "dead". A child by
    fork costs milliseconds, a program that imports torch seconds.
    """
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdout.write(f"pid {os.getpid()}\n")
            {"save_forever": save_forever, "save_forever_in_background": save_forever_in_background}[
                function
            ](root)
        os.waitpid(child, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


def die_in_children(folder: str, num_operations: str) -> None:
    """In a child for each k save epoch 3 into the folder k, die at the k-th operation; tell how it ended."""
    for at in range(int(num_operations)):
        child = os.fork()
        if child == 0:
            save_and_die(str(Path(folder) / str(at)), "3", str(at))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")


def save_forever(root: str) -> None:
    """Save epoch after epoch, acknowledging each on standard output once it is durable."""
    store = build_store(Path(root))
    store.clean()
    epoch = 0
    if store.names():
        epoch = 1 + int(str(store.load().record.state["epoch"]))
    while True:
        store.save(checkpoint_name(epoch, 0), build_record(epoch), topology_hash=TOPOLOGY)
        sys.stdout.write(f"{epoch}\n")
        sys.stdout.flush()
        epoch += 1


def save_forever_in_background(root: str) -> None:
    """Do the same beside the disk, with one more always waiting; what the writer says is acknowledged."""
    nearly_saved = threading.Semaphore(0)

    def before(operation: str, path: Path) -> None:
        if operation == "replace":
            nearly_saved.release()

    store = build_store(Path(root), before=before)
    store.clean()
    epoch = 1 + int(str(store.load().record.state["epoch"])) if store.names() else 0
    writer = BackgroundWriter(store)
    while True:
        request = SaveRequest(
            name=checkpoint_name(epoch, 0), record=build_record(epoch), topology_hash=TOPOLOGY
        )
        writer.submit(request)
        if epoch % 2:
            nearly_saved.acquire()
        for outcome in writer.collect():
            if outcome.saved is not None:
                sys.stdout.write(f"{int(outcome.name[1:5])}\n")
                sys.stdout.flush()
        epoch += 1


def save_with_small_files(root: str, epoch: str, max_bytes: str) -> None:
    """Save one epoch while no file may grow beyond `max_bytes`; print the refusal."""
    store = build_store(Path(root))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), int(max_bytes)))
    try:
        store.save(checkpoint_name(int(epoch), 0), build_record(int(epoch)), topology_hash=TOPOLOGY)
    except CheckpointError as error:
        sys.stdout.write(str(error))
