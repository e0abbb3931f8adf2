"""The one way in which a run saves itself: names, events, failures, the thread beside training.

```
load        newest valid checkpoint, what was passed over
save_later  flush the log > snapshot > hand to the writer          the run goes on
save_now    the same > wait > tell                                 the last one before an end
tell        CheckpointSaved or CheckpointFailed for what ended since, from the caller's thread
```
A save that fails is told and never ends a run; the next one is tried as if nothing had happened. Knows no
loop, and not what is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, final

from esper.leyline import CheckpointError, CheckpointFailed, CheckpointSaved
from esper.nissa import EventHub
from esper.runtime.experiment import CheckpointConfig
from esper.tolaria import (
    BackgroundWriter,
    CheckpointStore,
    LoadedCheckpoint,
    SaveOutcome,
    SaveRequest,
    StateRecord,
    checkpoint_name,
    detach_record,
)
from esper.tolaria.checkpoint import FileOps


@final
class Place(NamedTuple):
    """Where a run stands; two snapshots of one run at equal places are equal."""

    epoch: int
    """Completed epochs (of a policy in training: rounds)."""
    batch: int = 0
    """Completed batches (steps) of the running one."""
    num_rollbacks: int = 0

    @property
    def name(self) -> str:
        """The name of a checkpoint of this place."""
        return checkpoint_name(self.epoch, self.batch, self.num_rollbacks)


@final
class Snapshot(NamedTuple):
    """What is saved at a place."""

    record: StateRecord
    """Tensors that nobody writes into any more; plain data, which is copied."""
    topology_hash: str


Capture = Callable[[], Snapshot]
"""Copies the state of a run as it is now; called at most once, and not at all if it is saved already."""


@final
class RunSaver:
    """Saves one attempt at a run.

    Example:
        saver = RunSaver(folder.checkpoints_path, hub, config.checkpoint, kind="host-run")
        saver.clean()
        saver.save_later(Place(epoch=5), lambda: Snapshot(run.state(), run.topology_hash()))
    """

    def __init__(
        self,
        root: Path,
        hub: EventHub,
        config: CheckpointConfig,
        *,
        kind: str,
        file_ops: FileOps | None = None,
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            root: Directory of the checkpoints; its parent must exist.
            hub: Where events go; flushed to the disk before every snapshot, so that no checkpoint is ahead
                of its log.
            config: How many are kept, and whether training waits for them.
            kind: What is saved, as the store demands.
            file_ops: Through which everything is written; None lets every call through.
        """
        self._hub = hub
        self._is_asynchronous = config.is_asynchronous
        self._store = CheckpointStore(
            root, kind=kind, esper_version=version("esper-lite"), keep=config.keep, file_ops=file_ops
        )
        self._writer = BackgroundWriter(self._store)
        self._num_failures = 0
        self._settled: str | None = None
        """Name of the place that was loaded, saved or handed to the writer last and has not failed."""
        self.passed_over: tuple[str, ...] = ()
        """Damaged checkpoints that `load` found newer than the one it took, each with file and reason."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the checkpoints on the disk, newest first.

        Raises:
            CheckpointError: If the directory cannot be listed.
        """
        return self._store.names()

    def clean(self) -> None:
        """Remove what an interrupted attempt left half written; under the run lock, before anything else.

        Raises:
            CheckpointError: If the directory cannot be listed.
        """
        self._store.clean()

    def load(self) -> LoadedCheckpoint:
        """Return the newest valid checkpoint; its place counts as saved.

        Raises:
            CheckpointError: If none is valid.
            ForeignCheckpointError: If the newest is not damaged but none of ours.
        """
        loaded = self._store.load()
        self._settled, self.passed_over = loaded.name, tuple(map(str, loaded.rejected))
        return loaded

    def save_later(self, place: Place, capture: Capture) -> None:
        """Save this place beside training, if it is not saved already.

        If the disk is still busy with an earlier place when the next one comes, a place that waits between
        the two is given up and told as a failure: training does not wait.

        Args:
            place: Where the run stands.
            capture: Copies its state. Its plain data gets "last_seq", the number of the last event before it.
        """
        self._start(place, capture)
        if not self._is_asynchronous:
            self._writer.flush()
        self.tell(place.epoch)

    def save_now(self, place: Place, capture: Capture) -> str | None:
        """Save this place, wait, and return its name; None if that failed, which is told."""
        self._writer.flush()
        self.tell(place.epoch)  # a save of this very place may just have failed; then it is tried again
        self._start(place, capture)
        self._writer.flush()
        self.tell(place.epoch)
        return self._settled

    def tell(self, epoch: int) -> None:
        """Emit what became of saves since the last call.

        Args:
            epoch: Completed epochs now.
        """
        for outcome in self._writer.collect():
            if outcome.saved is not None:
                saved = outcome.saved
                self._hub.emit(CheckpointSaved(epoch=epoch, name=saved.name, num_bytes=saved.num_bytes))
            else:
                self._tell_failure(outcome, epoch)

    def close(self, epoch: int) -> None:
        """Wait for what is being saved, end the thread, and tell; nothing can be saved afterwards."""
        self._writer.close()
        self.tell(epoch)

    def _start(self, place: Place, capture: Capture) -> None:
        if place.name == self._settled:  # nothing was trained since: it is there already, or soon will be
            return
        self._hub.flush(durable=True)
        last_seq = self._hub.next_seq - 1
        self._writer.make_room()
        snapshot = capture()
        record = StateRecord(
            tensors=snapshot.record.tensors, state={**snapshot.record.state, "last_seq": last_seq}
        )
        try:
            record = detach_record(record)
        except CheckpointError as error:
            self._settled = None
            self._tell_failure(SaveOutcome(name=place.name, error=str(error)), place.epoch)
            return
        self._settled = place.name
        self._writer.submit(SaveRequest(name=place.name, record=record, topology_hash=snapshot.topology_hash))

    def _tell_failure(self, outcome: SaveOutcome, epoch: int) -> None:
        if outcome.name == self._settled:
            self._settled = None
        self._num_failures += 1
        self._hub.emit(
            CheckpointFailed(
                epoch=epoch, name=outcome.name, error=outcome.error, num_failures=self._num_failures
            )
        )
