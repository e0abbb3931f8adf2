"""Appends records to one process's event files, a line of JSON each, and repairs what it reopens."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from esper.leyline import DataError, RunDirectoryError, UnknownNameError
from esper.nissa.codec import Header, decode_line, encode_header, encode_record
from esper.nissa.event_chain import FileCaps, drop_samples, find_event_files, missing_parts, name_of_part
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
    """The event files of one process.

    A lifecycle or run event is in the file when `write` returns; a sample is there after at most
    `flush_interval_seconds`, also when no further record comes. That survives a kill of the process;
    `flush(durable=True)` survives a power cut.

    A file that is full is closed and the next one is begun; sequence numbers go on. When all files together
    would outgrow their room, the samples of the oldest closed ones are dropped and counted; everything else
    is kept, whatever room it takes.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        rank: int = 0,
        flush_interval_seconds: float = 1.0,
        caps: FileCaps = FileCaps(),  # noqa: B008 - frozen
        clock: Callable[[], float] = wall_clock,
        schedule: Schedule = schedule_once,
    ) -> None:
        """Open the newest file; an existing one is continued after a torn last line is cut off.

        Args:
            path: `events-<rank>.jsonl`, the first file; its folder must exist. Later ones lie beside it.
            run_id: Name of the run; an existing file must carry the same.
            rank: This process.
            flush_interval_seconds: Longest wait of a sample; 0 = none.
            caps: How large the files may get.
            clock: Source of the header's start time, seconds since 1970.
            schedule: How the delayed flush is started.

        Raises:
            RunDirectoryError: If a file cannot be opened or belongs to another run or rank.
            DataError: If a file is damaged beyond a torn last line, or one of the chain is missing.
        """
        self._folder, self._run_id, self._rank = path.parent, run_id, rank
        self._interval = flush_interval_seconds
        self._caps = caps
        self._clock = clock
        self._schedule = schedule
        self._cancel: Callable[[], None] | None = None
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._first_full = 0
        """The oldest part that may still hold samples."""
        self._num_bytes = 0
        self._has_records = False
        self.num_dropped = 0
        """Samples dropped by this process because the files were over their room."""
        try:
            end = find_end(path, run_id=run_id, rank=rank)
            self._part = end.part
            if end.position.num_torn:
                os.truncate(self.path, end.position.num_bytes)
            self._file = self._open(end.position.num_bytes)
        except OSError as error:
            raise RunDirectoryError(f"cannot write the event file {path}: {error}") from error
        self.num_torn = end.position.num_torn
        """Torn lines that were cut off at opening: 0 or 1."""
        self.next_seq = end.last_seq + 1
        """First sequence number that the files do not hold yet."""
        self.next_attempt = end.last_attempt + 1
        """First attempt number that the files do not hold yet."""

    @property
    def path(self) -> Path:
        """The file that is written now."""
        return self._folder / name_of_part(self._rank, self._part)

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
            if self._num_bytes + len(line) > self._caps.part_bytes and self._has_records:
                self._begin_next_file()
            self._file.write(line)
            self._num_bytes += len(line)
            self._has_records = True
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

    def _open(self, num_bytes: int) -> BinaryIO:
        """Open the present file, which holds so many whole bytes; an empty one gets its header."""
        file = self.path.open("ab")
        self._num_bytes, self._has_records = num_bytes, num_bytes > 0
        if num_bytes == 0:
            header = Header(run_id=self._run_id, rank=self._rank, start_time=self._clock())
            self._num_bytes = file.write(encode_header(header).encode() + b"\n")
            file.flush()
        return file

    def _begin_next_file(self) -> None:
        self._flush_now()
        os.fsync(self._file.fileno())  # nobody will ask for this file again
        self._file.close()
        self._part += 1
        self._file = self._open(0)
        try:
            self._make_room()
        except (OSError, DataError) as error:  # tried again with the next file; events go on being written
            logging.getLogger(__name__).warning("old event files cannot be made smaller: %s", error)

    def _make_room(self) -> None:
        """Drop the samples of the oldest files until a full new one fits, or none is left to drop."""
        files = [file for file in find_event_files(self._folder) if file.rank == self._rank]
        closed = {file.part: file.path.stat().st_size for file in files if file.part < self._part}
        room = self._caps.total_bytes - self._caps.part_bytes
        while sum(closed.values()) > room and self._first_full < self._part:
            part = self._first_full
            path = self._folder / name_of_part(self._rank, part)
            self.num_dropped += drop_samples(path)
            closed[part] = path.stat().st_size
            self._first_full = part + 1

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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where the event files of one process end."""

    part: int
    """The file that is continued."""
    position: Position
    """In that file."""
    last_seq: int
    """Highest sequence number in all of them; -1 = none."""
    last_attempt: int


def find_end(path: Path, *, run_id: str, rank: int) -> End:
    """Find where a chain of event files ends; its newest file may hold nothing yet.

    Args:
        path: `events-<rank>.jsonl`, the first file.
        run_id: Name of the run.
        rank: The process that writes them.

    Raises:
        RunDirectoryError: If a file belongs to another run or rank.
        DataError: If one is missing, damaged beyond a torn last line, or of another version.
        OSError: If one cannot be read.
    """
    files = [file for file in find_event_files(path.parent) if file.rank == rank]
    missing = missing_parts(files)
    if missing:
        raise DataError(f"{path.parent / missing[0]} is missing; later event files of this run are there")
    newest = files[-1] if files else None
    position = find_position(path if newest is None else newest.path, run_id=run_id, rank=rank)
    last = position
    for file in reversed(files[:-1]):
        if last.last_seq >= 0:
            break
        last = find_position(file.path, run_id=run_id, rank=rank)
    return End(
        part=0 if newest is None else newest.part,
        position=position,
        last_seq=last.last_seq,
        last_attempt=last.last_attempt,
    )


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
