"""Signs of life: what each rank does, in a file of its own that its peers read once something went wrong.

```
main thread: enter(phase, step), enter_collective(name) -> counter, before each collective
daemon thread: every half second counter + its own beat number -> heartbeat-rank-R.json
```
A counter that stands still while the beat goes on is a main thread that is stuck; if the beat stops, too, the
process is stopped, held, or dead. Files instead of a store: they need no server, and so survive any rank.
Only numbers are compared, never times: clocks of two machines share no zero. Imports no torch.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

from esper.runtime.fault_plan import FaultPlan
from esper.runtime.ranks.record_file import (
    MAX_TEXT,
    DamagedRecordError,
    read_record,
    take_number,
    take_text,
    write_record,
)

RUNNING, FAILED, LEFT = "running", "failed", "left"
_STATES = (RUNNING, FAILED, LEFT)
NOBODY = -1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What one rank said about itself last.

    Example:
        Pulse(rank=1, session="7c/0", counter=41, beat=120, phase="rollout", step=7, operation="all_sum")
    """

    rank: int
    session: str
    """Name of the attempt; a file of another one says nothing about this one."""
    counter: int = 0
    """Collectives entered; the same program runs on all ranks, so that the lowest is the one waited for."""
    beat: int = 0
    """Raised with every publication."""
    phase: str = "start"
    step: int = 0
    """Update, >= 0."""
    operation: str = ""
    """The last collective entered; empty before the first."""
    state: str = RUNNING
    """`RUNNING`, `FAILED` (a collective of its own failed: a witness) or `LEFT`."""
    suspect: int = NOBODY
    """The rank that a witness blames; `NOBODY` while it does not know."""
    reason: str = ""
    """Why it left."""

    def __post_init__(self) -> None:
        """Check the state.

        Raises:
            ValueError: If it is unknown.
        """
        if self.state not in _STATES:
            raise ValueError(f"state={self.state!r}: must be one of {', '.join(_STATES)}")


@final
class Heartbeat:
    """One rank's own signs of life. `enter` and the like belong to the main thread.

    A folder that cannot be written never stops a training; `num_lost` counts.

    Example:
        heartbeat = Heartbeat(folder, rank=0, session="7c/0", every_s=0.5)
        heartbeat.start()
        heartbeat.enter("rollout", step=7)
    """

    def __init__(
        self, folder: Path, *, rank: int, session: str, every_s: float, faults: FaultPlan | None = None
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            folder: An existing one that all ranks see.
            rank: This process.
            session: Name of this attempt.
            every_s: Seconds between publications.
            faults: What a drill lets go wrong in this process; None = nothing.
        """
        self._faults = FaultPlan() if faults is None else faults
        self._path = path_of(folder, rank)
        self._every_s = every_s
        self._pulse = Pulse(rank=rank, session=session)
        self._beat = 0
        self._num_lost = 0
        self._is_over = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def pulse(self) -> Pulse:
        """What this rank says about itself now; its beat is not the published one."""
        return self._pulse

    @property
    def num_lost(self) -> int:
        """Publications that the file system refused."""
        return self._num_lost

    def start(self) -> None:
        """Publish once and begin to beat.

        Raises:
            RuntimeError: If it was started before.
        """
        self._publish()
        self._thread.start()

    def enter(self, phase: str, step: int) -> None:
        """Say what begins; published at once, from the other thread.

        Args:
            phase: A word for a person, such as rollout or update.
            step: Update, >= 0.
        """
        self._pulse = replace(self._pulse, phase=phase, step=step)
        self._wake.set()
        self._faults.reach("phase", phase=phase, step=step)

    def enter_collective(self, operation: str) -> int:
        """Raise the counter; called before the exchange, so that whoever is missing in it has a lower one.

        Returns:
            The number of this collective, from 1.
        """
        pulse = self._pulse
        # Before the counter: whoever goes no further has not entered, and the others wait for it.
        self._faults.reach("collective", operation=operation, phase=pulse.phase, step=pulse.step)
        self._pulse = replace(pulse, counter=pulse.counter + 1, operation=operation)
        return self._pulse.counter

    def admit_failure(self, suspect: int | None = None) -> None:
        """Become a witness, published before return: whoever looks later must not blame this rank.

        Args:
            suspect: The rank to blame, once it is known.
        """
        self._pulse = replace(self._pulse, state=FAILED, suspect=NOBODY if suspect is None else suspect)
        self._publish()

    def close(self, reason: str = "finished") -> None:
        """Stop beating and say why; a witness stays one. Harmless when repeated.

        Args:
            reason: One line for a person.
        """
        if self._is_over:
            return
        self._is_over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._every_s)  # it may be stuck in a file system that hangs
        if self._pulse.state == RUNNING:
            self._pulse = replace(self._pulse, state=LEFT, reason=reason[:MAX_TEXT])
        self._publish()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if self._is_over:
                return
            self._publish()

    def _publish(self) -> None:
        with self._lock:
            self._beat += 1
            try:
                write_record(self._path, asdict(replace(self._pulse, beat=self._beat)))
            except OSError:
                self._num_lost += 1


def path_of(folder: Path, rank: int) -> Path:
    """Return where a rank publishes."""
    return folder / f"heartbeat-rank-{rank}.json"


def read_pulse(folder: Path, rank: int, session: str) -> Pulse | str:
    """Return what a rank published, or why there is nothing, as one line.

    Args:
        folder: Where all ranks publish.
        rank: Whom to look at.
        session: Name of this attempt.
    """
    try:
        record = read_record(path_of(folder, rank))
        pulse = Pulse(
            rank=take_number(record, "rank"),
            session=take_text(record, "session"),
            counter=take_number(record, "counter"),
            beat=take_number(record, "beat"),
            phase=take_text(record, "phase"),
            step=take_number(record, "step"),
            operation=take_text(record, "operation"),
            state=take_text(record, "state"),
            suspect=take_number(record, "suspect", NOBODY),
            reason=take_text(record, "reason"),
        )
    except FileNotFoundError:
        return "it has no heartbeat"
    except (DamagedRecordError, ValueError) as error:
        return f"its heartbeat cannot be read: {error}"
    if pulse.rank != rank or pulse.session != session:
        return "its heartbeat is of another attempt"
    return pulse
