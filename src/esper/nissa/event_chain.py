"""The event files of a run: one chain of parts per process, its names, its order, and how to shorten it.

```
events-0.jsonl  events-0.1.jsonl  events-0.2.jsonl ...   a part is full: the next one is begun
      ^ the chain is over its room: the samples of its oldest parts go, a note of how many stays
```
Knows names and lines, nothing about who writes or reads them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from esper.leyline import SAMPLE_KINDS, DataError, EventsDropped
from esper.nissa.codec import decode_line, encode_record
from esper.nissa.files import write_atomically
from esper.nissa.record import Record

_NAME = re.compile(r"events-(?P<rank>[0-9]{1,9})(\.(?P<part>[1-9][0-9]{0,8}))?\.jsonl")
_SAMPLES = tuple(f'{{"kind":"{kind}",'.encode() for kind in sorted(SAMPLE_KINDS))
"""How the lines of samples begin; the codec writes the kind first."""
_DECISION, _IN_NO_ROUND = b'{"kind":"DecisionMade",', b'"round":null'


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileCaps:
    """How large event files may get.

    Example:
        FileCaps(part_bytes=20_000_000, total_bytes=200_000_000)
    """

    part_bytes: int = 2**62
    """Of one file, >= 1; a single record that is longer has a file to itself."""
    total_bytes: int = 2**62
    """Of all files of one process, as long as what is no sample fits; at least twice `part_bytes`."""


@final
@dataclass(frozen=True, slots=True, order=True)
class EventFile:
    """One file of a run; sorted by process, then by time."""

    rank: int
    part: int
    """0 = the first."""
    path: Path


def name_of_part(rank: int, part: int) -> str:
    """Return the name of an event file in its run directory."""
    return f"events-{rank}.jsonl" if part == 0 else f"events-{rank}.{part}.jsonl"


def find_event_files(folder: Path) -> tuple[EventFile, ...]:
    """Return the event files of a run directory, by process and in the order in which they were written."""
    found = []
    for path in folder.glob("events-*.jsonl"):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            found.append(EventFile(int(name["rank"]), int(name["part"] or 0), path))
    return tuple(sorted(found))


def missing_parts(files: Iterable[EventFile]) -> tuple[str, ...]:
    """Return the names of files that a chain goes on without."""
    parts: dict[int, set[int]] = defaultdict(set)
    for file in files:
        parts[file.rank].add(file.part)
    return tuple(
        name_of_part(rank, part)
        for rank, there in sorted(parts.items())
        for part in range(max(there))
        if part not in there
    )


def drop_samples(path: Path) -> int:
    """Rewrite a file that nobody writes any more without its samples; return how many there were.

    One `EventsDropped` per attempt stands where the last of its samples stood. A reader sees the old file or
    the new one.

    Raises:
        DataError: If a sample cannot be read, so that what was lost could not be told; the file stays.
        OSError: If the file cannot be read or replaced; it stays.
    """
    kept: list[bytes] = []
    lost = _Lost()
    num_dropped = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if _is_sample(line):
            lost.num_samples, lost.line, lost.place = lost.num_samples + 1, line, len(kept)
            num_dropped += 1
            continue
        if line.startswith((b'{"kind":"RunStarted",', b'{"kind":"PolicyTrainingStarted",')):
            lost.note_in(kept)  # another attempt: a later one may go back before its records
        kept.append(line)
    lost.note_in(kept)
    if num_dropped:
        write_atomically(path, b"".join(kept))
    return num_dropped


def _is_sample(line: bytes) -> bool:
    """Whether a line may go; decisions of a policy in training may, those of older files say no round."""
    if line.startswith(_DECISION):
        return b'"round":' in line and _IN_NO_ROUND not in line
    return line.startswith(_SAMPLES)


@final
@dataclass(slots=True)
class _Lost:
    """Samples left out since the last note."""

    num_samples: int = 0
    line: bytes = b""
    """The last of them."""
    place: int = 0
    """Lines kept before it."""

    def note_in(self, kept: list[bytes]) -> None:
        """Put a note where the last sample stood, and start again."""
        if not self.num_samples:
            return
        last = decode_line(self.line)
        if not isinstance(last, Record):
            raise DataError("a header where a sample was expected")
        event = EventsDropped(
            epoch=last.event.epoch, instance=last.event.instance, num_dropped=self.num_samples
        )
        kept.insert(self.place, encode_record(replace(last, event=event)).encode() + b"\n")
        self.num_samples = 0
