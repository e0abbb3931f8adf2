"""Saving beside training: one save at a time in a thread of its own, and at most one more that waits.

```
caller   make_room > capture > submit        collect: what ended since        flush: wait for all
                                  |             ^                               ^
thread                            +-> save > outcome > the one that waits, if any
```
When the disk is slower than the caller, the caller does not wait: the newest snapshot takes the place of the
one that waits, so that the disk is always busy with the newest state it could get. Two snapshots are in
memory at most: one being written, one waiting. Knows no event and no run.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

from esper.leyline import CheckpointError, JsonValue
from esper.tolaria.checkpoint.record import SavedCheckpoint, StateRecord
from esper.tolaria.checkpoint.store import CheckpointStore
from esper.tolaria.checkpoint.strict_json import copy_plain

REPLACED = (
    "a newer one took its place before its turn: saving takes longer than the time between two saves; save "
    "less often"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaveRequest:
    """One snapshot and the name that it is to have."""

    name: str
    record: StateRecord
    """Its tensors and plain data belong to the writer from now on: nobody may write into them."""
    topology_hash: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOutcome:
    """How one save ended.

    Example:
        >>> SaveOutcome(name="e0012-b00000", error="cannot save checkpoint ...: No space left on device; ...")
    """

    name: str
    saved: SavedCheckpoint | None = None
    """Where it is; None if it failed."""
    error: str = ""
    """Why it failed; empty if it did not."""


@final
class BackgroundWriter:
    """Writes snapshots into a store without making the caller wait.

    All calls come from one thread. Meanwhile nobody else may write into the store.

    Example:
        writer.make_room()
        writer.submit(SaveRequest(name=name, record=detach_record(run.state()), topology_hash=digest))
        ...                                    # train on
        outcomes = writer.collect()            # at a boundary
        writer.close()                         # waits; collect once more afterwards
    """

    def __init__(self, store: CheckpointStore) -> None:
        """Prepare; the thread starts with the first save."""
        self._store = store
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._lock = threading.Lock()
        self._is_working = False
        self._waiting: SaveRequest | None = None
        self._outcomes: list[SaveOutcome] = []
        self._work_done: Future[None] | None = None

    def make_room(self) -> None:
        """Give up the save that still waits for its turn, if any; call it before a snapshot is taken.

        Only so are there never more than two snapshots in memory, the new one included.
        """
        with self._lock:
            if self._waiting is not None:
                self._outcomes.append(SaveOutcome(name=self._waiting.name, error=REPLACED))
                self._waiting = None

    def submit(self, request: SaveRequest) -> None:
        """Start saving, or wait for the save that runs; takes the place of one that waits already."""
        self.make_room()
        with self._lock:
            self._waiting = request
            is_idle, self._is_working = not self._is_working, True
        if is_idle:
            self._work_done = self._executor.submit(self._work)

    def collect(self) -> tuple[SaveOutcome, ...]:
        """Return what ended since the last call, in the order in which it ended; never waits."""
        if self._work_done is not None and self._work_done.done():
            self._work_done.result()  # a programmer's error is raised here and not lost in the thread
        with self._lock:
            outcomes, self._outcomes = tuple(self._outcomes), []
        return outcomes

    def flush(self) -> None:
        """Wait until everything that was submitted has ended."""
        if self._work_done is not None:
            self._work_done.result()

    def close(self) -> None:
        """Wait for everything and end the thread; a second call does nothing."""
        self._executor.shutdown(wait=True)

    def _work(self) -> None:
        while self._save_next():
            pass

    def _save_next(self) -> bool:
        """Save the one that waits; its snapshot is let go on return."""
        with self._lock:
            request, self._waiting = self._waiting, None
            self._is_working = request is not None
        if request is None:
            return False
        outcome = attempt_save(self._store, request)
        with self._lock:
            self._outcomes.append(outcome)
        return True


def attempt_save(store: CheckpointStore, request: SaveRequest) -> SaveOutcome:
    """Save, and return how it ended: neither a full disk nor a full memory may end a run."""
    try:
        saved = store.save(request.name, request.record, topology_hash=request.topology_hash)
    except CheckpointError as error:
        return SaveOutcome(name=request.name, error=str(error))
    except (MemoryError, RuntimeError) as error:  # torch reports memory that it cannot get as RuntimeError
        text = f"cannot save checkpoint {request.name} in {store.root}: {type(error).__name__}: {error}"
        return SaveOutcome(name=request.name, error=text)
    return SaveOutcome(name=request.name, saved=saved)


def detach_record(record: StateRecord) -> StateRecord:
    """Return a record that may be written later: plain data copied, tensors in the memory of the CPU.

    Tensors that lie there already are not copied: the record must own them, as records of `HostRun.state` do.
    Fetching the others here keeps the device out of the thread.

    Raises:
        CheckpointError: If the plain data cannot be saved; names the path to what is wrong.

    Example:
        >>> detach_record(StateRecord(tensors={}, state={"step": 3})).state
        {'step': 3}
    """
    state: dict[str, JsonValue] = {}
    try:
        for key, value in record.state.items():
            state[key] = copy_plain(value, f"record.state.{key}")
    except ValueError as error:
        raise CheckpointError(f"cannot save a checkpoint: {error}") from error
    return StateRecord(
        tensors={name: tensor.detach().cpu() for name, tensor in record.tensors.items()}, state=state
    )
