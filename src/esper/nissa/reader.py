"""Reads the event files of a run back as one stream: torn tails forgiven, rewound ranges dropped.

Works on finished and on growing files; writes nothing.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from esper.leyline import (
    DataError,
    Event,
    EventClass,
    EventsDropped,
    Notice,
    PolicyTrainingStarted,
    RunDirectoryError,
    RunFinished,
    RunStarted,
    UnknownNameError,
)
from esper.nissa.codec import Header, decode_line, encode_event
from esper.nissa.event_chain import EventFile, find_event_files, missing_parts
from esper.nissa.record import Record

CLOCK_FIELDS = frozenset({"seconds"})
"""Event fields that tell time; outside every equality."""
BOOKKEEPING_KINDS = frozenset(
    {"CheckpointSaved", "CheckpointFailed", "BackendFailed", "AlertFailed", "EventsDropped"}
)
"""Events about the process that ran, not about the run; an interrupted and resumed run has others."""


_MAX_HEAD_BYTES = 2**20
"""Bytes of a line within which `read_first_event` looks for its end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is not a record and is not a torn tail."""

    file: str
    line: int
    """Counted from 1; the header is line 1."""
    problem: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """Everything that could be read of a run."""

    headers: tuple[Header, ...]
    """One per file that has begun, by rank and in the order in which they were written."""
    records: tuple[Record, ...]
    """All ranks in order of time, each rank in order of its sequence numbers, superseded ones left out."""
    bad_lines: tuple[BadLine, ...] = ()
    num_torn: int = 0
    """Files that end in a torn line."""
    num_superseded: int = 0
    """Records dropped because a later attempt went back before them."""

    @property
    def num_dropped(self) -> int:
        """Samples that are missing because event files were over their room."""
        return sum(
            record.event.num_dropped for record in self.records if isinstance(record.event, EventsDropped)
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TailBatch:
    """What was added to a run since the last look; superseded records are not dropped here."""

    records: tuple[Record, ...]
    bad_lines: tuple[BadLine, ...] = ()
    is_behind: bool = False
    """Whether a file holds more than was read in this step."""


def read_run(path: Path) -> RunLog:
    """Read every event file of a run directory.

    Args:
        path: A folder with `events-<rank>.jsonl` files; those that follow them are read as one with them.

    Raises:
        RunDirectoryError: If there is no event file, or files of several runs.
        DataError: If a file's first line is not a header of this version.
    """
    files = find_event_files(path)
    if not files:
        raise RunDirectoryError(f"{path} holds no events-<rank>.jsonl file; expected a run directory")
    parts = [_read_file(file.path) for file in files]
    headers = tuple(header for part in parts for header in part.headers)
    if len({header.run_id for header in headers}) > 1:
        names = sorted({header.run_id for header in headers})
        raise RunDirectoryError(f"{path} holds events of several runs: {', '.join(names)}; expected one")
    merged = _merge(_join((file.rank, part.records) for file, part in zip(files, parts, strict=True)))
    kept = drop_superseded(merged)
    return RunLog(
        headers=headers,
        records=kept,
        bad_lines=(
            *(BadLine(file=name, line=1, problem="the file is missing") for name in missing_parts(files)),
            *(bad for part in parts for bad in part.bad_lines),
        ),
        num_torn=sum(part.num_torn for part in parts),
        num_superseded=len(merged) - len(kept),
    )


def read_first_event(path: Path) -> Event | None:
    """Return the first event of a run directory: what kind of run it is; None = not one that can be read yet.

    Reads two lines of the first event file, so that a list of runs stays fast.
    """
    for file in event_files(path)[:1]:
        with file.open("rb") as lines:
            head = [lines.readline(_MAX_HEAD_BYTES) for _ in range(2)]
        parsed = _parse(head[1], file, 2) if head[1].endswith(b"\n") else None
        return parsed.event if isinstance(parsed, Record) else None
    return None


def event_files(path: Path) -> tuple[Path, ...]:
    """Return the event files of a run directory, by rank and in the order in which they were written."""
    return tuple(file.path for file in find_event_files(path))


def drop_superseded(records: Iterable[Record]) -> tuple[Record, ...]:
    """Leave out what a resumed attempt went back before.

    A start (RunStarted or PolicyTrainingStarted) of attempt a with `rewinds_to_seq` s supersedes, on its own
    rank, the records of attempts before a with a sequence number over s.
    """
    records = tuple(records)
    cuts: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        event = record.event
        if isinstance(event, RunStarted | PolicyTrainingStarted) and event.rewinds_to_seq is not None:
            cuts[record.rank].append((record.attempt, event.rewinds_to_seq))
    return tuple(
        record
        for record in records
        if not any(record.attempt < attempt and record.seq > seq for attempt, seq in cuts[record.rank])
    )


def effective_log(path: Path) -> tuple[str, ...]:
    """Return what two runs are compared by: one line of JSON per event that says what the run did.

    Left out: samples, clock fields, sequence numbers, events about the process (`BOOKKEEPING_KINDS`), and the
    marks of an interruption (a resumed start, a RunFinished of an earlier attempt). Ranks follow each
    other, so that the order does not depend on clocks.

    Raises:
        RunDirectoryError: If there is no event file, or files of several runs.
        DataError: If a line cannot be read: a damaged log equals nothing.
    """
    log = read_run(path)
    if log.bad_lines:
        first = log.bad_lines[0]
        raise DataError(f"{first.file}:{first.line}: {first.problem} ({len(log.bad_lines)} bad lines in all)")
    last_attempt = max((record.attempt for record in log.records), default=0)
    by_rank = sorted(log.records, key=lambda record: record.rank)  # stable: keeps each rank's order
    return tuple(
        json.dumps({"rank": record.rank, **_without_clock(record.event)}, sort_keys=True)
        for record in by_rank
        if not _is_about_the_process(record, last_attempt)
    )


def tail(
    path: Path, max_bytes: int | None = None, kinds: frozenset[str] | None = None
) -> Iterator[TailBatch]:
    """Yield, each time it is asked, what was added to a run directory since; never ends, never waits.

    Files may appear late, and a line counts once it is whole. A file that was written anew without its
    samples is read on after the last record that was seen of it. A link in the place of a file is not
    followed.

    Args:
        path: A run directory; it may hold no event file yet.
        max_bytes: Read at most so much of each file per step, >= 1, and pass over lines that are longer;
            None = all there is.
        kinds: Kinds of events that are decoded, others are passed over unread; None = all.

    Example:
        for batch in tail(folder):
            show(batch.records)
            wait_a_second()
    """
    cursors: dict[EventFile, _Cursor] = {}
    while True:
        # Listed before any is read: whoever begins a file has finished the one before it.
        files = find_event_files(path)
        for file in files:
            cursors.setdefault(file, _Cursor(file.path, max_bytes, kinds))
        steps = [(file.rank, cursors[file].read_new()) for file in files]
        yield TailBatch(
            records=_merge(_join((rank, step.records) for rank, step in steps)),
            bad_lines=tuple(bad for _, step in steps for bad in step.bad_lines),
            is_behind=any(step.is_behind for _, step in steps),
        )


@final
class _Cursor:
    """Remembers how far a growing file was read."""

    def __init__(self, file: Path, max_bytes: int | None, kinds: frozenset[str] | None) -> None:
        self._file = file
        self._beginnings = (
            (b"",) if kinds is None else tuple(f'{{"kind":"{kind}",'.encode() for kind in sorted(kinds))
        )
        self._max_bytes = max_bytes
        self._inode = -1
        self._num_bytes = 0
        self._num_lines = 0
        self._last_seq = -1
        self._is_inside_long_line = False

    def read_new(self) -> TailBatch:
        """Read the whole lines after the last position."""
        try:
            chunk, is_behind = self._read_chunk()
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return TailBatch(records=())  # a link: it may lead anywhere
        whole, line_end, unfinished = chunk.rpartition(b"\n")
        lines = whole.split(b"\n") if line_end else []
        bad: list[BadLine] = []
        if self._is_inside_long_line and line_end:
            self._is_inside_long_line = False
            bad.append(self._pass_over(lines.pop(0)))
        if is_behind and not line_end:
            self._is_inside_long_line, unfinished = True, b""
        self._num_bytes += len(chunk) - len(unfinished)
        records: list[Record] = []
        for line in lines:
            self._num_lines += 1
            if not line.startswith(self._beginnings):
                continue
            parsed = _parse(line, self._file, self._num_lines)
            if isinstance(parsed, BadLine):
                bad.append(parsed)
            elif isinstance(parsed, Record) and parsed.seq > self._last_seq:
                records.append(parsed)
                self._last_seq = parsed.seq
        return TailBatch(records=tuple(records), bad_lines=tuple(bad), is_behind=is_behind)

    def _read_chunk(self) -> tuple[bytes, bool]:
        """Return the next bytes, and whether the file holds more."""
        with os.fdopen(os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
                return b"", False
            if facts.st_ino != self._inode:  # another file in its place: the same one without its samples
                self._inode, self._num_bytes, self._num_lines = facts.st_ino, 0, 0
                self._is_inside_long_line = False
            self._num_bytes = min(self._num_bytes, facts.st_size)  # shorter: its torn tail was cut
            file.seek(self._num_bytes)
            chunk = file.read(-1 if self._max_bytes is None else self._max_bytes)
            return chunk, self._max_bytes is not None and len(chunk) == self._max_bytes

    def _pass_over(self, end: bytes) -> BadLine:
        self._num_lines += 1
        return BadLine(
            file=self._file.name,
            line=self._num_lines,
            problem=f"longer than {self._max_bytes} bytes; it ends in {len(end)} more",
        )


def _read_file(file: Path) -> RunLog:
    """Read one file; at most one line, the last, may be torn: without a line end, or not readable."""
    data = file.read_bytes()
    lines = data.split(b"\n")
    unfinished = lines.pop()
    if not lines:
        return RunLog(headers=(), records=(), num_torn=1 if unfinished else 0)
    header = _read_header(lines[0], file)
    records: list[Record] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines[1:], 2):
        parsed = _parse(line, file, number)
        if isinstance(parsed, BadLine):
            bad.append(parsed)
        elif isinstance(parsed, Record) and (parsed.run_id, parsed.rank) == (header.run_id, header.rank):
            records.append(parsed)
        else:
            bad.append(BadLine(file=file.name, line=number, problem="belongs to another run or rank"))
    is_torn = bool(unfinished)
    if not is_torn and bad and bad[-1].line == len(lines):
        bad.pop()
        is_torn = True
    return RunLog(
        headers=(header,), records=tuple(records), bad_lines=tuple(bad), num_torn=1 if is_torn else 0
    )


def _read_header(line: bytes, file: Path) -> Header:
    parsed = _parse(line, file, 1)
    if isinstance(parsed, Header):
        return parsed
    problem = parsed.problem if isinstance(parsed, BadLine) else f"is a {parsed.event.kind} record"
    raise DataError(f"{file}: line 1 is not the header of an event file: {problem}")


def _parse(line: bytes, file: Path, number: int) -> Header | Record | BadLine:
    try:
        return decode_line(line)
    except (DataError, UnknownNameError) as error:
        return BadLine(file=file.name, line=number, problem=str(error))


def _join(parts: Iterable[tuple[int, Sequence[Record]]]) -> list[list[Record]]:
    """Put what the files of each rank hold behind each other."""
    joined: dict[int, list[Record]] = defaultdict(list)
    for rank, records in parts:
        joined[rank] += records
    return list(joined.values())


def _merge(parts: Sequence[Sequence[Record]]) -> tuple[Record, ...]:
    """Merge ranks by time; a clock that goes back does not change the order within a rank."""
    keyed: list[list[tuple[float, int, int, Record]]] = []
    for records in parts:
        latest = float("-inf")
        rows = []
        for place, record in enumerate(records):
            latest = max(latest, record.wall_time)
            rows.append((latest, record.rank, place, record))
        keyed.append(rows)
    return tuple(row[3] for row in heapq.merge(*keyed, key=lambda row: row[:3]))


def _is_about_the_process(record: Record, last_attempt: int) -> bool:
    event = record.event
    if event.event_class is EventClass.SAMPLE or event.kind in BOOKKEEPING_KINDS:
        return True
    if isinstance(event, Notice):
        return event.is_about_process
    if isinstance(event, RunStarted | PolicyTrainingStarted):
        return event.is_resumed
    return isinstance(event, RunFinished) and record.attempt < last_attempt


def _without_clock(event: Event) -> Mapping[str, object]:
    line = encode_event(event)
    body = line["event"]
    if isinstance(body, Mapping):
        line["event"] = {key: value for key, value in body.items() if key not in CLOCK_FIELDS}
    return line
