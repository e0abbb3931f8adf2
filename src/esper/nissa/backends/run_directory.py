"""Files of a run in its directory: the event file of this process, and a summary when it ends.

Making the directory, its lock and the resolved configuration is the caller's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import final

from esper.leyline import RunDirectoryError
from esper.nissa.analytics.summary import compute_summary, summary_to_plain
from esper.nissa.analytics.training import compute_training_summary, is_training, training_to_plain
from esper.nissa.backends.jsonl import JsonlBackend
from esper.nissa.event_chain import FileCaps, name_of_part
from esper.nissa.files import write_atomically
from esper.nissa.reader import read_run
from esper.nissa.record import Record, wall_clock

SUMMARY_NAME = "summary.json"


@final
class RunDirectoryBackend:
    """Writes `events-<rank>.jsonl` and the files after it, and on close, on rank 0, `summary.json`.

    The summary is computed from the files, so that after a resume it covers all attempts.
    """

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        rank: int = 0,
        flush_interval_seconds: float = 1.0,
        caps: FileCaps = FileCaps(),  # noqa: B008 - frozen
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        """Open or continue the event file.

        Args:
            directory: The run's directory; must exist.
            run_id: Name of the run.
            rank: This process.
            flush_interval_seconds: Longest wait of a sample before it is in the file, in [0, 1].
            caps: How large the event files may get.
            clock: Source of the header's start time, seconds since 1970.

        Raises:
            RunDirectoryError: If the directory is missing, cannot be written, or belongs to another run.
            DataError: If the event file is damaged beyond a torn last line.
        """
        if not directory.is_dir():
            raise RunDirectoryError(f"{directory} is not a directory; expected the run's, made beforehand")
        self.directory = directory
        self._rank = rank
        self._is_closed = False
        self._events = JsonlBackend(
            directory / name_of_part(rank, 0),
            run_id=run_id,
            rank=rank,
            flush_interval_seconds=flush_interval_seconds,
            caps=caps,
            clock=clock,
        )

    @property
    def name(self) -> str:
        """Always "run_directory"."""
        return "run_directory"

    @property
    def next_seq(self) -> int:
        """First sequence number that the event file does not hold yet: the hub's `first_seq`."""
        return self._events.next_seq

    @property
    def next_attempt(self) -> int:
        """First attempt number that the event file does not hold yet: the hub's `attempt`."""
        return self._events.next_attempt

    @property
    def num_torn(self) -> int:
        """Torn lines that were cut off at opening: 0 or 1."""
        return self._events.num_torn

    @property
    def num_dropped(self) -> int:
        """Samples dropped by this process because the event files were over their room."""
        return self._events.num_dropped

    def write(self, record: Record) -> None:
        """Append one record to the event file.

        Raises:
            OSError: If the file cannot be written.
            TypeError: If the event holds something that is not plain data.
        """
        self._events.write(record)

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the operating system, and to the disk where `durable`.

        Raises:
            OSError: If the file cannot be written.
        """
        self._events.flush(durable=durable)

    def close(self) -> None:
        """Close the event file and write the summary; a second call does nothing.

        Raises:
            OSError: If a file cannot be written.
            DataError: If the event files cannot be read back.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._events.close()
        if self._rank == 0:
            write_summary(self.directory)


def write_summary(directory: Path) -> Path:
    """Compute `summary.json` from the event files of a run directory and return its path.

    It sums up a host run, or the training of a policy; only the latter has a "kind".

    Raises:
        RunDirectoryError: If there is no event file.
        DataError: If an event file has no header of this version.
        OSError: If the summary cannot be written.

    Example:
        >>> write_summary(run_dir).name
        'summary.json'
    """
    records = read_run(directory).records
    if is_training(records):
        plain = training_to_plain(compute_training_summary(records))
    else:
        plain = summary_to_plain(compute_summary(records))
    path = directory / SUMMARY_NAME
    write_atomically(path, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
    return path
