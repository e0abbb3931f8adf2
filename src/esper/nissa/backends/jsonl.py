"""Appends records to one event file per process, a line of JSON each; repairs a file that it reopens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from esper.leyline import DataError, RunDirectoryError, UnknownNameError
from esper.nissa.codec import Header, decode_line, encode_header, encode_record
from esper.nissa.record import Record, wall_clock

Schedule = Callable[[float, Callable[[], None]], Callable[[], None]]
"""(delay in seconds, call) -> a function that cancels it."""


def schedule_once(delay_seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """Run `call` once after a delay in a daemon thread; return the function that cancels it."""
    timer = threading.Timer(delay_seconds, call)
    timer.daemon = True
    timer.start()
    return timer.cancel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an event file ends."""

    last_seq: int = -1
    """Highest sequence number in it; -1 = none."""
    last_attempt: int = -1
    """Attempt of the last record; -1 = none."""
    num_bytes: int = 0
    """Length of the part that is whole; 0 = not even a header."""
    num_torn: int = 0
    """1 if a torn last line follows that part, else 0."""


@final
class JsonlBackend:
    """One event file of one process.

    A lifecycle or run event is in the file when `write` returns; a sample is there after at most
    `flush_interval_seconds`, also when no further record comes. That survives a kill of the process;
    `flush(durable=True)` survives a power cut.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        rank: int = 0,
        flush_interval_seconds: float = 1.0,
        clock: Callable[[], float] = wall_clock,
        schedule: Schedule = schedule_once,
    ) -> None:
        """Open the file; an existing one is continued after a torn last line is cut off.

        Args:
            path: `events-<rank>.jsonl`; its folder must exist.
            run_id: Name of the run; an existing file must carry the same.
            rank: This process.
            flush_interval_seconds: Longest wait of a sample; 0 = none.
            clock: Source of the header's start time, seconds since 1970.
            schedule: How the delayed flush is started.

        Raises:
            RunDirectoryError: If the file cannot be opened or belongs to another run or rank.
            DataError: If the file is damaged beyond a torn last line.
        """
        self.path = path
        self._interval = flush_interval_seconds
        self._schedule = schedule
        self._cancel: Callable[[], None] | None = None
        self._error: OSError | None = None
        self._lock = threading.Lock()
        try:
            position = find_position(path, run_id=run_id, rank=rank)
            if position.num_torn:
                os.truncate(path, position.num_bytes)
            self._file: BinaryIO = path.open("ab")
            if position.num_bytes == 0:
                header = Header(run_id=run_id, rank=rank, start_time=clock())
                self._file.write(encode_header(header).encode() + b"\n")
                self._file.flush()
        except OSError as error:
            raise RunDirectoryError(f"cannot write the event file {path}: {error}") from error
        self.num_torn = position.num_torn
        """Torn lines that were cut off at opening: 0 or 1."""
        self.next_seq = position.last_seq + 1
        """First sequence number that the file does not hold yet."""
        self.next_attempt = position.last_attempt + 1
        """First attempt number that the file does not hold yet."""

    @property
    def name(self) -> str:
        """Always "jsonl"."""
        return "jsonl"

    def write(self, record: Record) -> None:
        """Append one record.

        Raises:
            OSError: If the file cannot be written, or could not be at the last delayed flush.
            TypeError: If the event holds something that is not plain data.
        """
        line = encode_record(record).encode() + b"\n"
        with self._lock:
            self._raise_late_error()
            self._file.write(line)
            self.next_seq = max(self.next_seq, record.seq + 1)
            if not record.is_sample or self._interval == 0:
                self._flush_now()
            elif self._cancel is None:
                self._cancel = self._schedule(self._interval, self._flush_late)

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the operating system, and to the disk where `durable`.

        Raises:
            OSError: If the file cannot be written.
        """
        with self._lock:
            self._raise_late_error()
            self._flush_now()
            if durable:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush to the disk and close the file; a second call does nothing.

        Raises:
            OSError: If the last lines cannot be written; the file is closed all the same.
        """
        with self._lock:
            if self._file.closed:
                return
            try:
                self._flush_now()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()
            self._raise_late_error()

    def _flush_now(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._file.flush()

    def _flush_late(self) -> None:
        with self._lock:
            self._cancel = None
            if self._file.closed:
                return
            try:
                self._file.flush()
            except OSError as error:  # nobody is listening in this thread: the next call raises it
                self._error = error

    def _raise_late_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def find_position(path: Path, *, run_id: str, rank: int) -> Position:
    """Find where an event file ends; a last line without a line end, or not readable, counts as torn.

    Raises:
        RunDirectoryError: If the file belongs to another run or rank.
        DataError: If it is damaged beyond a torn last line, or of another version.
        OSError: If it cannot be read.
    """
    if not path.exists():
        return Position()
    before = last = b""
    num_lines = 0
    with path.open("rb") as file:
        first = file.readline()
        if not first.endswith(b"\n"):
            return Position(num_torn=1 if first else 0)
        for line in file:
            num_lines += 1
            before, last = last, line
    _require_owner(path, first, run_id=run_id, rank=rank)
    whole, num_torn = last, 0
    if last and (not last.endswith(b"\n") or not _is_record(last)):
        whole, num_torn = before, 1
    num_bytes = path.stat().st_size - (len(last) if num_torn else 0)
    if num_lines == num_torn:  # no whole record
        return Position(num_bytes=num_bytes, num_torn=num_torn)
    try:
        record = decode_line(whole)
    except (DataError, UnknownNameError) as error:
        raise DataError(f"{path}: damaged before its last line, cannot be continued: {error}") from error
    if isinstance(record, Header):
        raise DataError(f"{path}: a second header at line {num_lines + 1 - num_torn}; expected records")
    return Position(last_seq=record.seq, last_attempt=record.attempt, num_bytes=num_bytes, num_torn=num_torn)


def _require_owner(path: Path, line: bytes, *, run_id: str, rank: int) -> None:
    try:
        header = decode_line(line)
    except UnknownNameError as error:
        raise DataError(f"{path}: line 1 is not a header: {error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(header, Header):
        raise DataError(f"{path}: line 1 is a {header.event.kind} record; expected the header")
    if (header.run_id, header.rank) != (run_id, rank):
        raise RunDirectoryError(
            f"{path} belongs to run {header.run_id!r}, rank {header.rank}; "
            f"expected run {run_id!r}, rank {rank}"
        )


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(decode_line(line), Record)
    except (DataError, UnknownNameError):
        return False
